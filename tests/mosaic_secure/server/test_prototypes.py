"""The prototype expert from exact sums, and how it stands noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mosaic_secure.config import PrototypesConfig
from mosaic_secure.server.prototypes import (
    PrototypeState,
    best_counts,
    clean_spectrum,
    start,
    take_centre,
    take_gradient,
    take_moments,
)
from privacy.mechanisms import Statistic, SumMechanism
from privacy.randomness import NoiseSource

DIM, CLASSES = 12, 3
MOMENTS = (Statistic("counts"), Statistic("class_sums"), Statistic("second_moments"))


def source(label: str = "test") -> NoiseSource:
    return NoiseSource(bytes(32), label)


def mechanism(*statistics: Statistic, noise: float = 0.0) -> SumMechanism:
    return SumMechanism(statistics, DIM, CLASSES, noise, grid=2.0**24)


def records(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Codes of norm one about one direction a class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    codes = rng.normal(size=(CLASSES, DIM))[labels] + 0.8 * rng.normal(size=(count, DIM))
    return codes / np.linalg.norm(codes, axis=1, keepdims=True), labels


def after_moments(
    noise: float = 0.0, config: PrototypesConfig | None = None, clients: int = 1
) -> PrototypeState:
    codes, labels = records()
    made = mechanism(*MOMENTS, noise=noise)
    parts = np.array_split(np.arange(len(labels)), clients)
    total = sum(made.release(codes[p], labels[p], source(f"client {i}")) for i, p in enumerate(parts))
    counts = np.bincount(labels, minlength=CLASSES).astype(float)
    state = start(DIM, CLASSES)
    return take_moments(state, made.decode(total), counts, made, clients, config or PrototypesConfig())


def loss(weights: np.ndarray) -> float:
    """Mean cross-entropy of softmax(codes @ weights)."""
    codes, labels = records()
    logits = codes @ weights
    top = logits.max(1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def gradient(state: PrototypeState) -> np.ndarray:
    """The exact softmax gradient, in the metric of the state, unclipped."""
    codes, labels = records()
    moved = codes @ state.metric.astype(float)
    logits = moved @ state.scaled_weights
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return moved.T @ (odds / odds.sum(1, keepdims=True) - np.eye(CLASSES)[labels])


def accuracy(weights: np.ndarray) -> float:
    codes, labels = records()
    return float(((codes @ weights).argmax(1) == labels).mean())


def test_without_noise_the_moments_give_the_closed_form_of_ridge_regression():
    codes, labels = records()
    state = after_moments()
    ridge = float(state.ridge[0])
    assert 0 < ridge < 1
    targets = np.eye(CLASSES)[labels] - 1 / CLASSES
    wanted = np.linalg.solve(codes.T @ codes + ridge * np.eye(DIM), codes.T @ targets)
    scale = (state.weights * wanted).sum() / (wanted**2).sum()  # logits may be any multiple of the regression
    assert scale > 0
    np.testing.assert_allclose(state.weights, scale * wanted, atol=1e-4 * scale)
    assert accuracy(state.weights) > 0.9


def test_the_expert_does_not_depend_on_how_records_are_spread_over_clients():
    np.testing.assert_allclose(after_moments(clients=7).weights, after_moments().weights, atol=1e-3)


def test_class_means_are_sums_over_counts():
    codes, labels = records()
    wanted = np.stack([codes[labels == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(after_moments().means, wanted, atol=1e-5)


def test_noise_raises_the_ridge_and_never_breaks_the_solution():
    mild, wild = after_moments(noise=0.5), after_moments(noise=1e4)
    assert float(mild.ridge[0]) < float(wild.ridge[0])
    assert accuracy(mild.weights) > 0.85
    assert all(np.isfinite(array).all() for array in wild.arrays().values())
    assert np.abs(wild.weights).max() < 100  # noise of 10,000 is answered by a ridge as large


def test_counts_below_one_from_noise_leave_everything_finite():
    made = mechanism(*MOMENTS)
    decoded = made.decode(made.release(*records(), source()))
    counts = np.full(CLASSES, -50.0)
    state = take_moments(start(DIM, CLASSES), decoded, counts, made, 1, PrototypesConfig())
    assert all(np.isfinite(array).all() for array in state.arrays().values())
    assert (state.counts >= 1).all()


def test_class_sums_alone_still_make_an_expert():
    made = mechanism(Statistic("counts"), Statistic("class_sums"))
    decoded = made.decode(made.release(*records(), source()))
    counts = np.bincount(records()[1], minlength=CLASSES)
    state = take_moments(start(DIM, CLASSES), decoded, counts, made, 1, PrototypesConfig())
    assert accuracy(state.weights) > 0.9


def test_a_gradient_round_lowers_the_loss_and_more_rounds_lower_it_further():
    config = PrototypesConfig(rounds=12, gradient_share=0.5)
    made = mechanism(Statistic("gradient"))
    state = after_moments(config=config)
    losses = [loss(state.weights)]
    for round in range(12):
        state = take_gradient(state, gradient(state), round, made, 1, config)
        losses.append(loss(state.weights))
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]
    # Without noise the rounds come close to the least loss there is at these weights' size.
    assert np.linalg.norm(gradient(state)) < 0.3 * np.linalg.norm(gradient(after_moments(config=config)))


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_the_metric_evens_out_the_directions_and_keeps_the_model(whitening):
    codes, _ = records()
    state = after_moments(config=PrototypesConfig(whitening=whitening, radius=0.5))
    moved = codes @ state.metric.astype(float)
    np.testing.assert_allclose(moved @ state.scaled_weights, codes @ state.weights, atol=1e-5)
    spread = np.linalg.eigvalsh(moved.T @ moved)
    before = np.linalg.eigvalsh(codes.T @ codes)
    wanted = np.log(before[-1] / before[0]) * (1 - whitening)
    assert np.log(spread[-1] / spread[0]) == pytest.approx(wanted, abs=0.02)
    if whitening:
        assert np.mean((moved**2).sum(1)) == pytest.approx(0.25, rel=0.01)
    else:
        np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1.0, rtol=1e-5)


def test_directions_hidden_by_noise_get_the_rest_of_the_known_trace():
    state = after_moments(noise=3.0)
    hidden = clean_spectrum(state.values, float(state.noise[0])) == 0
    assert 0 < hidden.sum() < DIM
    assert state.spectrum[hidden] == pytest.approx(state.spectrum.min())
    assert state.spectrum.sum() >= 300 - 1e-6


def test_the_last_iterates_are_averaged():
    made = mechanism(Statistic("gradient"))
    averaging = PrototypesConfig(rounds=4, gradient_share=0.5, average=0.5)
    endless = PrototypesConfig(rounds=1000, gradient_share=0.5, average=0.001)
    mean = plain = after_moments(config=averaging)
    iterates = []
    for round in range(4):
        step = gradient(plain)
        mean = take_gradient(mean, step, round, made, 1, averaging)
        plain = take_gradient(plain, step, round, made, 1, endless)
        iterates.append(plain.weights)
    np.testing.assert_allclose(mean.weights, (iterates[2] + iterates[3]) / 2)


def test_a_noisier_gradient_makes_smaller_steps():
    config = PrototypesConfig(rounds=5, gradient_share=0.5)
    state = after_moments(config=config)
    step = gradient(state)
    moved = [
        np.linalg.norm(
            take_gradient(state, step, 0, mechanism(Statistic("gradient"), noise=noise), 1, config).weights
            - state.weights
        )
        for noise in (0.0, 10.0, 1000.0)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def test_the_centre_is_the_mean_code_and_never_leaves_the_ball():
    codes, _ = records()
    state = take_centre(start(DIM, CLASSES), codes.sum(0), len(codes))
    np.testing.assert_allclose(state.centre, codes.mean(0))
    far = take_centre(start(DIM, CLASSES), 1e6 * codes.sum(0), 0.0)
    assert np.linalg.norm(far.centre) == pytest.approx(1.0)


def test_a_state_survives_a_checkpoint():
    state = after_moments(noise=1.0)
    back = PrototypeState.from_arrays(state.arrays())
    for field in dataclasses.fields(state):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(state, field.name))


def wigner(size: int, noise: float, seed: int = 0) -> np.ndarray:
    """Symmetric noise of deviation `noise` on the diagonal and noise / sqrt 2 beside it."""
    draw = np.random.default_rng(seed).normal(scale=noise, size=(size, size))
    return (draw + draw.T) / 2


def test_the_spectrum_of_pure_noise_is_cleaned_away():
    """The largest of 200 eigenvalues passes the edge in under 1 of 5 draws, a second one hardly ever."""
    for seed in range(5):
        kept = clean_spectrum(np.linalg.eigvalsh(wigner(200, 3.0, seed)), 3.0)
        assert np.count_nonzero(kept) <= 1


def test_a_strong_direction_is_found_at_its_true_strength():
    """True eigenvalues of 1 and 2 radii under noise; the estimates scatter by about noise."""
    size, noise = 200, 0.5
    radius = noise * math.sqrt(2 * size)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(size, 2)))[0]
    truth = (basis * np.array([2 * radius, radius])) @ basis.T
    seen = np.linalg.eigvalsh(truth + wigner(size, noise))
    cleaned = np.sort(clean_spectrum(seen, noise))[::-1]
    np.testing.assert_allclose(cleaned[:2], [2 * radius, radius], atol=5 * noise)
    assert seen[-1] - 2 * radius > cleaned[0] - 2 * radius  # noise inflates what is seen


def test_cleaning_is_monotone_never_raises_and_without_noise_changes_nothing_positive():
    values = np.linspace(-5, 50, 200)
    cleaned = clean_spectrum(values, 0.7)
    assert (np.diff(cleaned) >= 0).all() and (cleaned >= 0).all()
    assert (cleaned <= np.maximum(values, 0)).all()
    np.testing.assert_allclose(clean_spectrum(values, 0.0), np.maximum(values, 0.0))


def test_counts_from_two_noisy_versions_are_better_than_either():
    rng = np.random.default_rng(5)
    true = np.full(4000, 50.0)
    first, second = true + rng.normal(0, 3.0, 4000), true + rng.normal(0, 6.0, 4000)
    found = best_counts(first, 3.0, second, 6.0)
    # The variance of the best combination is 1 / (1/9 + 1/36) = 7.2; 4,000 draws are within 10% of it.
    assert np.mean((found - true) ** 2) == pytest.approx(7.2, rel=0.1)
    assert np.array_equal(best_counts(first, 0.0, second, 1.0), first)
    assert np.array_equal(best_counts(first, 0.0, second, 0.0), second)
