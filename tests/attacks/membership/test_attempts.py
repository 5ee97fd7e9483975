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
    """Of 32 pixels a side a move is by one pixel, of 8 by a quarter."""
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = shifted_views(image, MOST_VIEWS)
    assert views.shape == (2, 25, 3, 32, 32) and torch.equal(views[:, 0], image)
    up = torch.cat([image[:, :, 1:], torch.zeros(2, 3, 1, 32)], dim=2)
    assert torch.equal(views[:, 1], up)
    assert len({view.numpy().tobytes() for view in views[0]}) == 25
    assert torch.equal(shifted_views(image, 9), views[:, :9])
    dot = torch.zeros(1, 1, 8, 8)
    dot[0, 0, 4, 4] = 1
    around = shifted_views(dot, 9)[0, :, 0]
    assert around[1, 3:5, 4].tolist() == [0.25, 0.75]
    assert around[3, 4, 4:6].tolist() == [0.75, 0.25]
    torch.testing.assert_close(around.sum(dim=(1, 2)), torch.ones(9))
    assert torch.isfinite(shifted_views(torch.rand(1, 1, 64, 64), MOST_VIEWS)).all()
    for count in (0, MOST_VIEWS + 1):
        with pytest.raises(ValueError, match="must be from 1 to 25"):
            shifted_views(image, count)
