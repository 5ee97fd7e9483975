"""All attacks from one set of signals, and the views that signals are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.membership.attempts import LOSS, attempts
from attacks.membership.scores import Signals
from attacks.membership.shadows import random_halves
from attacks.membership.views import MOST_VIEWS, shifted_views
from attacks.rates import area


def signals(models: int, records: int = 200) -> Signals:
    """Records of very different difficulty, on which a model is surer by 1 if it has seen them."""
    rng = np.random.default_rng(0)
    inside = np.concatenate([rng.random((1, records)) < 0.5, random_halves(models, records, 1)])
    difficulty = 5 * rng.normal(size=(1, records, 1))
    said = difficulty + inside[..., None] + 0.7 * rng.normal(size=(models + 1, records, 2))
    return Signals(said[0], said[1:], inside[1:]), inside[0]


@pytest.mark.parametrize("models", [4, 32])
def test_shadow_models_tell_members_where_the_loss_does_not(models: int):
    found, members = signals(models)
    scores = attempts(found, np.flatnonzero(~members))
    assert ("LiRA, online" in scores) == (models == 32)  # too few for a spread of each record
    areas = {name: area(score[members], score[~members])[0] for name, score in scores.items()}
    assert areas.pop(LOSS) < 0.65 and all(value > 0.8 for value in areas.values()), areas


def test_the_baseline_looks_at_the_record_itself():
    found, members = signals(4)
    assert np.array_equal(attempts(found, np.flatnonzero(~members))[LOSS], found.target[:, 0])


def test_confidences_out_of_all_proportion_are_no_error():
    found, members = signals(4)
    found.target[0], found.shadows[:, 0] = -1e4, -1e4
    assert all(np.isfinite(score).all() for score in attempts(found, np.flatnonzero(~members)).values())


def test_views_are_the_image_and_its_moves():
    image = torch.arange(2 * 9, dtype=torch.float32).view(2, 1, 3, 3) + 1
    views = shifted_views(image, 9)
    assert views.shape == (2, 9, 1, 3, 3) and torch.equal(views[:, 0], image)
    moved = {tuple(view.flatten().tolist()) for view in views[0]}
    assert len(moved) == 9 and (5, 6, 0, 8, 9, 0, 0, 0, 0) in moved
    assert len({tuple(view.flatten().tolist()) for view in shifted_views(image, MOST_VIEWS)[0]}) == 25
    for count in (0, MOST_VIEWS + 1):
        with pytest.raises(ValueError, match="must be from 1 to 25"):
            shifted_views(image, count)
