from __future__ import annotations

import math

import pytest

from mosaic_secure.config import load_config
from mosaic_secure.config.ablation import ablations, without
from mosaic_secure.errors import UserError


def test_the_budget_of_what_is_left_out_goes_to_the_rest():
    config = load_config("digits")
    shares = without(config, "generators").privacy.shares
    assert shares.generator == 0
    assert math.isclose(sum(shares.model_dump().values()), 1)
    before = config.privacy.shares
    assert math.isclose(shares.prototypes / shares.classifier, before.prototypes / before.classifier)


def test_parts_that_cost_no_budget_leave_it_as_it_is():
    config = load_config("digits")
    assert without(config, "gate").privacy == config.privacy
    assert not without(config, "gate").gate.enabled


def test_every_ablation_is_a_valid_run_that_differs():
    config = load_config("digits")
    found = ablations(config)
    assert {"prototype expert", "class experts", "generators", "gate", "distillation"} <= set(found)
    assert "fine-tuning" not in found
    assert all(changed != config for changed in found.values())


def test_unknown_parts_are_refused():
    with pytest.raises(UserError, match="choose one of"):
        without(load_config("digits"), "everything")
