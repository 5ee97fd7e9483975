"""Inversion of models whose insides are known, and judges that cannot be fooled by numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from attacks.inversion.classes import Search, frozen, invert_classes, invert_with_generator
from attacks.inversion.judge import recognised, resemblance

SHAPE = (1, 8, 8)
CLASSES = torch.arange(3)
SEARCH = Search(steps=80, restarts=3, learning_rate=0.1)


def templates() -> torch.Tensor:
    """Three pictures: a bar at the left, one at the right, one below; [3, 64] in [0, 1]."""
    pictures = torch.zeros(3, 8, 8)
    pictures[0, :, :3] = pictures[1, :, 5:] = pictures[2, 5:, :] = 1
    return pictures.flatten(1)


def matcher() -> nn.Module:
    """A model that takes a picture for the template that it covers best."""
    layer = nn.Linear(64, 3)
    with torch.no_grad():
        layer.weight.copy_(2 * templates() - 1)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def test_pixels_come_back_as_the_template_that_the_model_holds():
    found = invert_classes(frozen(matcher()), CLASSES, SHAPE, SEARCH)
    assert found.images.shape == (3, *SHAPE) and found.images.min() >= 0 and found.images.max() <= 1
    assert found.classes.tolist() == [0, 1, 2] and (found.confidence > 0.6).all()
    likeness = torch.corrcoef(torch.cat([found.images.flatten(1), templates()]))[:3, 3:]
    assert (likeness.argmax(dim=1) == CLASSES).all() and (likeness.diagonal() > 0.5).all()
    again = invert_classes(frozen(matcher()), CLASSES, SHAPE, SEARCH)
    assert torch.equal(found.images, again.images)


def test_a_model_that_sees_no_contrast_is_shown_pictures_with_some():
    """Without that smoothness would have them all grey, which such a model does not mind."""

    def blind(images: torch.Tensor) -> torch.Tensor:
        rows = images.flatten(1) - images.mean(dim=(1, 2, 3))[:, None]
        return matcher()(50 * rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-9))

    found = invert_classes(blind, CLASSES, SHAPE, SEARCH)
    assert (found.images.flatten(1).std(dim=1) > 0.2).all() and (found.confidence > 0.6).all()


def test_a_generator_keeps_to_what_it_can_draw():
    """It draws mixtures of the templates, whatever label it is asked for: the model's answer must decide."""

    def generate(latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert len(labels) == len(latents)
        return (latents.softmax(dim=1) @ templates()).view(-1, *SHAPE)

    found = invert_with_generator(frozen(matcher()), generate, 3, CLASSES, SEARCH)
    parts = torch.linalg.lstsq(templates().T, found.images.flatten(1).T).solution.T
    assert (parts.argmax(dim=1) == CLASSES).all() and (parts.max(dim=1).values > 0.6).all()


def test_the_attack_leaves_the_model_as_it_was():
    model = matcher()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    invert_classes(frozen(model), CLASSES, SHAPE, SEARCH)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_another_model_judges_what_was_found():
    pictures = templates().view(-1, *SHAPE)
    assert recognised(matcher(), pictures, CLASSES).hits == 3
    assert recognised(matcher(), pictures, torch.tensor([0, 1, 1])).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("copied", "low", "high"), [(True, 0.95, 1.0), (False, 0.38, 0.62)])
def test_resemblance_tells_copies_from_the_kind(copied: bool, low: float, high: float):
    """200 pictures; of pictures that copy nothing a share beyond 0.38 to 0.62 comes once in 1,000 seeds.
    There are ten times as many members: their number alone must not make them nearer."""
    rng = np.random.default_rng(1)
    members = (rng.normal(size=(2000, 5)), rng.integers(0, 4, 2000))
    fresh = (rng.normal(size=(200, 5)), rng.integers(0, 4, 200))
    if copied:
        members = (members[0][:200], members[1][:200])
        pictures, classes = members[0] + rng.normal(0, 0.02, (200, 5)), members[1]
    else:
        pictures, classes = rng.normal(size=(200, 5)), rng.integers(0, 4, 200)
    found = resemblance(pictures, classes, members, fresh)
    assert low <= found.nearer.value <= high
    assert (found.chance < 1e-6) == copied
    assert (members[1][found.member] == classes).all() and (fresh[1][found.fresh] == classes).all()
    known = np.linalg.norm(pictures - members[0][found.member], axis=1)
    np.testing.assert_allclose(found.to_member, known)
    hits, trials = found.nearer.hits, found.nearer.trials
    assert found.chance == pytest.approx(stats.binomtest(hits, trials, 0.5, "greater").pvalue)


def test_equal_distances_speak_for_neither_and_a_class_without_records_is_refused():
    same = (np.zeros((3, 2)), np.zeros(3, dtype=int))
    found = resemblance(np.ones((4, 2)), np.zeros(4, dtype=int), same, same)
    assert found.nearer is None and found.chance == 1.0
    with pytest.raises(ValueError, match="class 1"):
        resemblance(np.ones((1, 2)), np.array([1]), same, same)
