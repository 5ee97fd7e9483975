"""Synthetic records: moments that match what was released, and draws fixed by their seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from mosaic_secure.config import PrototypesConfig
from mosaic_secure.models.encoders import build_encoder, centre_codes, encode
from mosaic_secure.models.registry import build_generator
from mosaic_secure.server.prototypes import PrototypeState, start, take_centre, take_moments
from mosaic_secure.server.synthetic import MomentSampler, draw_from_generators, mix_records
from privacy.mechanisms import Statistic, SumMechanism
from privacy.randomness import NoiseSource

SHAPE, CLASSES, SIDE = (1, 8, 8), 3, 4
MOMENTS = (Statistic("counts"), Statistic("class_sums"), Statistic("second_moments"))


def encoder(side: int = SIDE, weight: float = 0.4):
    return build_encoder("fourier", SHAPE, 0, 8, pixel_side=side, pixel_weight=weight)


def records(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, count, p=[0.5, 0.3, 0.2])
    images = 0.5 * rng.random((count, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, 2:6, 2 * label : 2 * label + 2] += 0.5
    return images.astype(np.float32), labels


def state_of(public, centred: bool, noise: float = 0.0) -> PrototypeState:
    images, labels = records()
    codes, counts = encode(public, images), np.bincount(labels, minlength=CLASSES)
    state = start(public.dim, CLASSES)
    if centred:
        state = take_centre(state, codes.sum(0), len(codes))
        codes = centre_codes(codes, state.centre)
    made = SumMechanism(MOMENTS, public.dim, CLASSES, noise, grid=2.0**24)
    decoded = made.decode(made.release(codes, labels, NoiseSource(bytes(32), "test")))
    return take_moments(state, decoded, counts.astype(float), made, 1, PrototypesConfig())


def sampler(centred: bool = True, side: int = SIDE) -> MomentSampler:
    public = encoder(side)
    return MomentSampler(public, state_of(public, centred))


def pooled(public) -> tuple[np.ndarray, np.ndarray]:
    images, labels = records()
    return public.pool(torch.from_numpy(images)).numpy(), labels


@pytest.mark.parametrize(("centred", "tolerance"), [(False, 1e-4), (True, 0.06)])
def test_pooled_moments_are_those_of_the_records(centred, tolerance):
    """Exact without a centre; with one, the renormalisation of centred codes is undone on average only."""
    pixels, labels = pooled(encoder())
    means, seconds = sampler(centred).pooled_moments()
    assert means.shape == (CLASSES, SIDE**2) and seconds.shape == (CLASSES, SIDE**2, SIDE**2)
    wanted = np.stack([pixels[labels == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(means, wanted, atol=tolerance)
    shares = np.bincount(labels, minlength=CLASSES) / len(labels)
    total = np.einsum("c,cij->ij", shares, seconds)
    np.testing.assert_allclose(total, pixels.T @ pixels / len(pixels), atol=tolerance)


def test_second_moments_are_those_of_a_distribution_about_the_means():
    means, seconds = sampler().pooled_moments()
    for mean, second in zip(means, seconds, strict=True):
        assert np.linalg.eigvalsh(second - np.outer(mean, mean)).min() > -1e-5


def test_draws_scatter_about_the_prototype_of_their_class():
    public, made = encoder(side=8), sampler(side=8)
    prototypes = public.pool(made.prototypes())
    labels = torch.arange(600) % CLASSES
    drawn = public.pool(made.draw(labels, 0))
    means = torch.stack([drawn[labels == c].mean(0) for c in range(CLASSES)])
    cosines = torch.nn.functional.cosine_similarity(means, prototypes)
    assert float(cosines.min()) > 0.97
    assert float(((drawn @ prototypes.T).argmax(1) == labels).double().mean()) > 0.9
    # As far from their means, on average, as the records themselves.
    pixels, classes = pooled(public)
    spread = np.mean(
        [((pixels[classes == c] - pixels[classes == c].mean(0)) ** 2).sum(1).mean() for c in range(3)]
    )
    found = torch.stack([(drawn[labels == c] - means[c]).square().sum(1).mean() for c in range(3)]).mean()
    assert float(found) == pytest.approx(spread, rel=0.25)


def test_draws_are_images_fixed_by_seed_and_name():
    made, labels = sampler(), torch.tensor([0, 1, 2, 2])
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = made.draw(labels, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.shape == (4, *SHAPE)
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, made.draw(labels, 5))
    assert not torch.equal(first, made.draw(labels, 6))
    assert not torch.equal(first, made.draw(labels, 5, "again"))
    assert made.prototypes().shape == (CLASSES, *SHAPE)
    assert made.draw(labels[:0], 5).shape == (0, *SHAPE)


def test_moments_that_are_all_noise_still_give_finite_images():
    public = encoder()
    made = MomentSampler(public, state_of(public, True, noise=1e3))
    assert torch.isfinite(made.draw(torch.tensor([0, 1]), 0)).all()
    assert all(np.isfinite(array).all() for array in made.pooled_moments())


def test_codes_without_pixels_cannot_be_drawn_from():
    public = encoder(weight=0.0)
    with pytest.raises(ValueError, match="pixel_weight"):
        MomentSampler(public, state_of(public, True))


class Painter(nn.Module):
    """A generator whose pictures tell who made them, for which class, from which latent."""

    latent_dim = 2

    def __init__(self, who: float) -> None:
        super().__init__()
        self.who = who

    def forward(self, latent: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = torch.full((len(latent),), self.who), labels / 10.0, latent.sum(1).sigmoid()
        return torch.stack(parts, dim=1).view(-1, 3, 1, 1)


PAINTERS = [Painter(0.0), Painter(0.5), Painter(1.0)]
COUNTS = np.array([[300.0, 0.0, 100.0], [-50.0, 200.0, 0.0], [-1.0, -2.0, 0.0]])


def test_records_are_asked_of_clients_and_classes_as_the_counts_say():
    """A cell holds 6,000 p records, give or take five standard deviations: false alarms below 1e-5."""
    images, labels = draw_from_generators(PAINTERS, COUNTS, 6000, seed=0)
    assert images.shape == (6000, 3, 1, 1) and labels.shape == (6000,)
    np.testing.assert_allclose(images[:, 1, 0, 0], labels / 10.0)
    owners = (2 * images[:, 0, 0, 0]).long()
    found = np.zeros((3, 3))
    np.add.at(found, (owners.numpy(), labels.numpy()), 1)
    shares = np.maximum(COUNTS, 0) / np.maximum(COUNTS, 0).sum()
    assert (found[shares == 0] == 0).all()
    assert (np.abs(found - 6000 * shares) <= 5 * np.sqrt(6000 * shares * (1 - shares))).all()


def test_draws_from_generators_are_fixed_by_the_seed():
    first, labels = draw_from_generators(PAINTERS, COUNTS, 50, seed=1)
    again, same = draw_from_generators(PAINTERS, COUNTS, 50, seed=1)
    other, _ = draw_from_generators(PAINTERS, COUNTS, 50, seed=2)
    assert torch.equal(first, again) and torch.equal(labels, same)
    assert not torch.equal(first, other)
    assert len(first[:, 2].unique()) == 50  # no latent twice


def test_counts_that_are_all_noise_ask_everybody():
    images, labels = draw_from_generators(PAINTERS, np.full((3, 3), -4.0), 300, seed=0)
    assert len(images[:, 0].unique()) == 3 and len(labels.unique()) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_few_records_or_none_are_drawn_from_a_real_generator(number):
    generator = build_generator("dcgan", SHAPE, CLASSES, 0, latent_dim=4)
    images, labels = draw_from_generators([generator], COUNTS[:1], number, seed=0)
    assert images.shape == (number, *SHAPE) and labels.shape == (number,)


def test_pixels_of_a_generator_that_are_none_are_black_and_others_are_pixels():
    class Wild(Painter):
        def forward(self, latent: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            values = torch.tensor([float("nan"), float("inf"), -3.0])
            return values.expand(len(latent), 3).reshape(-1, 3, 1, 1)

    images, _ = draw_from_generators([Wild(0.0)], COUNTS[:1], 4, seed=0)
    assert torch.equal(images.flatten(1), torch.tensor([[0.0, 1.0, 0.0]] * 4))


def test_mixtures_lie_between_two_records_and_are_fixed_by_the_seed():
    images = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    mixed = mix_records(images, 1)
    assert mixed.shape == images.shape
    assert float(mixed.min()) >= 0 and float(mixed.max()) <= 1
    assert not torch.equal(mixed, images)
    for one, image in zip(mixed, images, strict=True):
        # one = w image + (1 - w) partner for one w in [0, 1] and one partner
        away, options = (one - image).flatten(), (images - image).flatten(1)
        weights = (options @ away) / options.square().sum(1).clamp_min(1e-9)
        left = (weights[:, None] * options - away).norm(dim=1)
        assert bool(((left < 1e-5) & (weights >= 0) & (weights <= 1 + 1e-5)).any())
    assert torch.equal(mixed, mix_records(images, 1))
    assert not torch.equal(mixed, mix_records(images, 2))
    assert not torch.equal(mixed, mix_records(images, 1, "again"))


def test_a_state_without_second_moments_can_be_drawn_from():
    public = encoder()
    state = dataclasses.replace(
        state_of(public, True), values=np.full(public.dim, 300 / public.dim), vectors=np.eye(public.dim)
    )
    assert torch.isfinite(MomentSampler(public, state).draw(torch.tensor([0, 1]), 0)).all()
