"""Moments of images by class: right without noise, harmless under much of it, blind to who holds what."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mosaic_secure.client.images import image_codes, pooled
from mosaic_secure.config import load_config
from mosaic_secure.data.records import DataInfo
from mosaic_secure.plan import IMAGE_ROUNDS, RunPlan
from mosaic_secure.release_requests import release_requests
from mosaic_secure.server.class_sampler import ClassSampler
from mosaic_secure.server.image_learner import ImageLearner
from mosaic_secure.server.image_moments import ImageState, start, take_class_moments
from privacy.budget import plan_budget
from privacy.randomness import NoiseSource

SHAPE, CLASSES, SIDE, PIXELS = (1, 8, 8), 3, 4, 16
COUNT = 900
SETTINGS = {
    "sampler.enabled": True,
    "sampler.image_size": SIDE,
    "sampler.rank": PIXELS,
    "privacy.shares.prototypes": 0.3,
    "privacy.shares.sampler": 0.3,
    # Wide enough that nothing is clipped.
    "sampler.centre_clip": 1.0,
    "sampler.means_clip": 1.0,
    "sampler.moments_clip": 1.0,
}


def plan(epsilon: float | str = "inf", **changes) -> RunPlan:
    values = {**SETTINGS, "privacy.epsilon": epsilon, **{k.replace("__", "."): v for k, v in changes.items()}}
    config = load_config("digits", values)
    budget = plan_budget(config.privacy.epsilon, config.privacy.delta, release_requests(config))
    return RunPlan(config, budget, DataInfo("test", SHAPE, tuple("abc"), "public"))


def records() -> tuple[np.ndarray, np.ndarray]:
    """Images whose blocks of two by two pixels vary about class means, each class along directions of it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, COUNT)
    means = rng.uniform(0.4, 0.6, (CLASSES, PIXELS))
    factors = [0.05 * np.linalg.qr(rng.normal(size=(PIXELS, PIXELS)))[0] for _ in range(CLASSES)]
    factors = np.stack([f * np.linspace(0.2, 1.5, PIXELS) for f in factors])
    small = means[labels] + np.einsum("npr,nr->np", factors[labels], rng.normal(size=(COUNT, PIXELS)))
    small = small.clip(0, 1).reshape(COUNT, 1, SIDE, SIDE)
    return small.repeat(2, 2).repeat(2, 3).astype(np.float32), labels


def learn(made: RunPlan, split: list[np.ndarray] | None = None, stop: str | None = None) -> ImageState:
    """The state after the rounds, of clients that hold `split` of the records."""
    images, labels = records()
    split = split if split is not None else [np.arange(COUNT)]
    learner, clients = ImageLearner(made), [f"client-{i}" for i in range(len(split))]
    counts = {
        c: np.bincount(labels[r], minlength=CLASSES).astype(float)
        for c, r in zip(clients, split, strict=True)
    }
    for wanted in made.rounds:
        if wanted.release not in IMAGE_ROUNDS:
            continue
        told = learner.broadcast(wanted)
        total = sum(
            wanted.mechanism.release(
                image_codes(wanted, told, images[rows], labels[rows], made),
                labels[rows],
                NoiseSource(bytes([index]) * 32, wanted.round_id),
            )
            for index, rows in enumerate(split)
        )
        learner.learn(wanted, total, clients, counts)
        learner.restore(learner.arrays())
    return learner.state


def test_without_noise_means_and_covariances_of_each_class_are_those_of_the_records():
    images, labels = records()
    state, small = learn(plan(sampler__unclip=1.0)), pooled(images, SIDE)
    np.testing.assert_allclose(state.basis.T @ state.basis, np.eye(PIXELS), atol=1e-9)
    for label in range(CLASSES):
        mine = small[labels == label]
        np.testing.assert_allclose(state.means[label], mine.mean(0), atol=1e-3)
        found = state.basis @ state.covariances[label] @ state.basis.T
        wanted = np.cov(mine.T, bias=True)
        assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_drawn_images_have_the_released_moments():
    import torch

    images, labels = records()
    made = plan(sampler__unclip=1.0, sampler__widen=1.0, sampler__sharpen=0.0, sampler__grain=0.0)
    sampler, small = ClassSampler(made, learn(made)), pooled(images, SIDE)
    for label in range(CLASSES):
        mine = small[labels == label]
        asked = torch.full((4000,), label)
        drawn = sampler.draw(asked, seed=3)
        assert drawn.shape == (4000, *SHAPE) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
        deviations = sampler.model.smooth(torch.randn(4000, PIXELS), asked)
        # Pooling undoes the enlargement but for what bicubic interpolation smooths away.
        assert np.abs(pooled(drawn.numpy(), SIDE).mean(0) - mine.mean(0)).max() < 0.05
        variance = pooled(deviations.numpy(), SIDE).var(0).sum() / mine.var(0).sum()
        assert 0.5 < variance < 1.3


def test_the_class_means_and_what_generators_are_told_fit_each_other():
    made = plan()
    sampler = ClassSampler(made, learn(made))
    means, seconds = sampler.pooled_moments()
    assert means.shape == (CLASSES, PIXELS) and seconds.shape == (CLASSES, PIXELS, PIXELS)
    assert means.dtype == seconds.dtype == np.float32
    described = made.pixel_encoder().pool(sampler.prototypes()).numpy()
    cosines = (described * means).sum(1) / np.linalg.norm(described, axis=1) / np.linalg.norm(means, axis=1)
    assert (cosines > 0.97).all()
    np.testing.assert_allclose(np.trace(seconds, axis1=1, axis2=2), 1.0, atol=1e-4)  # each has norm one
    assert np.linalg.eigvalsh(seconds).min() > -1e-5


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_under_heavy_noise_everything_stays_finite_and_covariances_stay_positive(epsilon):
    import torch

    made = plan(epsilon)
    state = learn(made)
    assert all(np.isfinite(array).all() for array in state.arrays().values())
    assert (state.means >= 0).all() and (state.means <= 1).all()
    kept = int((state.spectrum > 0).sum())
    assert not state.basis[:, kept:].any() and not state.covariances[:, kept:].any()
    for covariance in state.covariances[:, :kept, :kept]:
        assert kept == 0 or np.linalg.eigvalsh(covariance).min() > 0
    drawn = ClassSampler(made, state).draw(torch.arange(30) % CLASSES, seed=0)
    assert torch.isfinite(drawn).all() and float(drawn.min()) >= 0 and float(drawn.max()) <= 1


def test_it_does_not_matter_which_client_holds_which_record():
    _, labels = records()
    by_class = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    evenly = [np.arange(COUNT)[start::CLASSES] for start in range(CLASSES)]
    skewed, even = learn(plan(), by_class), learn(plan(), evenly)
    # Each client rounds to the grid by itself: that alone is left.
    np.testing.assert_allclose(skewed.means, even.means, atol=1e-4)
    for label in range(CLASSES):
        found = [s.basis @ s.covariances[label] @ s.basis.T for s in (skewed, even)]
        np.testing.assert_allclose(*found, atol=1e-5)


def test_noisy_moments_of_a_class_are_drawn_to_the_common_ones_and_exact_ones_are_believed():
    config = load_config("digits").sampler
    spectrum = np.array([1.0, 0.25])
    state = dataclasses.replace(start(2, 2, 1), basis=np.eye(2), spectrum=spectrum)
    moments = np.array([[[1.0, 0.45], [0.45, 0.25]]]) * 100

    def correlation(noise: float) -> float:
        made = take_class_moments(state, moments, np.array([100.0]), 1.0, noise, config).covariances[0]
        np.testing.assert_allclose(np.diag(made), config.unclip * spectrum, rtol=0.2)
        return made[0, 1] / math.sqrt(made[0, 0] * made[1, 1])

    assert correlation(0.0) == pytest.approx(0.9, abs=0.01)
    found = [correlation(noise) for noise in (0.0, 5.0, 20.0, 1e6)]
    assert found == sorted(found, reverse=True) and found[-1] == pytest.approx(0.0, abs=1e-6)


def test_directions_below_the_noise_are_left_out():
    state = learn(plan(1.0, sampler__moments_clip=0.2))
    kept = int((state.spectrum > 0).sum())
    assert kept < PIXELS and not state.covariances[:, :, kept:].any()


def test_a_client_without_usable_counts_is_counted_by_the_encrypted_sum():
    made = plan()
    images, labels = records()
    learner = ImageLearner(made)
    halves = {"client-0": np.arange(COUNT // 2), "client-1": np.arange(COUNT // 2, COUNT)}
    counts = {"client-0": np.bincount(labels[halves["client-0"]], minlength=CLASSES).astype(float)}
    for wanted in [w for w in made.rounds if w.release in IMAGE_ROUNDS[:2]]:
        told = learner.broadcast(wanted)
        total = sum(
            wanted.mechanism.release(
                image_codes(wanted, told, images[r], labels[r], made),
                labels[r],
                NoiseSource(bytes(32), "test"),
            )
            for r in halves.values()
        )
        learner.learn(wanted, total, list(halves), counts)
    np.testing.assert_allclose(learner.state.counts, np.bincount(labels), atol=0.01)


def test_pixels_of_no_records_are_none():
    assert pooled(np.zeros((0, *SHAPE), np.float32), SIDE).shape == (0, PIXELS)
