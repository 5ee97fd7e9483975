"""Pictures from prototypes: a lone record comes back from its code, and noise hides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attacks.inversion.classes import Search
from attacks.inversion.prototypes import implied_means, invert_codes
from attacks.synthetic.distances import nearest

SHAPE = (1, 8, 8)
SEARCH = Search(steps=150, restarts=2, learning_rate=0.1, smoothness=0.05)


def bars() -> torch.Tensor:
    """Six pictures of two bars, [6, 1, 8, 8] in {0, 1}."""
    pictures = torch.zeros(6, 1, 8, 8)
    for number, picture in enumerate(pictures[:, 0]):
        picture[:, 1 + number] = 1
        picture[6 - number, :] = 1
    return pictures


def encoder() -> nn.Module:
    """A fixed map that is not linear, to codes of norm one."""
    layer = nn.Linear(64, 96)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(96, 64, generator=torch.Generator().manual_seed(3)) / 8)
        layer.bias.zero_()

    class Unit(nn.Module):
        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return codes / codes.norm(dim=1, keepdim=True)

    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), Unit()).requires_grad_(False)


def likeness(images: torch.Tensor) -> torch.Tensor:
    """Correlation of each picture [6, ...] with each of the bars, [6, 6]."""
    return torch.corrcoef(torch.cat([images.flatten(1), bars().flatten(1)]))[:6, 6:]


def test_a_prototype_of_one_record_shows_it():
    """The mean over one record is its code: its length does not matter, and the picture comes back."""
    public = encoder()
    found = invert_codes(public, 0.3 * public(bars()), SHAPE, SEARCH)
    assert found.images.shape == (6, *SHAPE) and found.images.min() >= 0 and found.images.max() <= 1
    assert (found.likeness > 0.98).all()
    alike = likeness(found.images)
    assert (alike.argmax(dim=1) == torch.arange(6)).all() and (alike.diagonal() > 0.9).all()
    assert torch.equal(found.images, invert_codes(public, 0.3 * public(bars()), SHAPE, SEARCH).images)


def test_noise_hides_it():
    """Noise of ten times the length of a code leaves an angle that says nothing of it."""
    public = encoder()
    noise = torch.randn(6, 96, generator=torch.Generator().manual_seed(5))
    found = invert_codes(public, public(bars()) + noise, SHAPE, SEARCH)
    assert likeness(found.images).diagonal().mean() < 0.5


def test_a_mean_of_many_is_the_picture_of_none():
    """Two records far apart: what comes back lies between them."""
    public = encoder()
    two = bars()[[0, 5]]
    found = invert_codes(public, public(two).mean(dim=0, keepdim=True), SHAPE, SEARCH)
    distances, _ = nearest(found.images.flatten(1).numpy(), two.flatten(1).numpy(), 2)
    assert distances[0, 1] < 1.5 * distances[0, 0]


def test_weights_tell_the_means_that_they_were_fitted_to():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(20, 20))
    labels = rng.integers(0, 3, 3000)
    means = rng.normal(size=(3, 20))
    codes = means[labels] + rng.normal(size=(3000, 20)) @ spread
    codes -= codes.mean(axis=0)
    sums = np.stack([codes[labels == k].sum(axis=0) for k in range(3)])
    weights = np.linalg.solve(codes.T @ codes, sums.T).T
    implied = implied_means(torch.from_numpy(weights), torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(3000 * implied, sums, rtol=1e-8)
    others = means[rng.integers(0, 3, 3000)] + rng.normal(size=(3000, 20)) @ spread
    told = implied_means(torch.from_numpy(weights), torch.from_numpy(others - others.mean(axis=0))).numpy()
    alike = np.corrcoef(np.concatenate([told, sums]))[:3, 3:].diagonal()
    assert (alike > 0.95).all()
    plain = np.corrcoef(np.concatenate([weights, sums]))[:3, 3:].diagonal()
    assert (alike > plain).all()


@pytest.mark.parametrize("smoothness", [0.0, 1.0])
def test_smoothness_costs_likeness(smoothness: float):
    public = encoder()
    search = Search(steps=80, restarts=1, learning_rate=0.1, smoothness=smoothness)
    found = invert_codes(public, public(bars()), SHAPE, search)
    rough = found.images.diff(dim=2).square().mean() + found.images.diff(dim=3).square().mean()
    assert (rough < 0.2) == (smoothness > 0)
