"""Canaries in sums: found as well as by an ideal attack, honest mechanisms pass, and broken ones do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attacks.onerun import GaussianDP, chance_of_guesses, epsilon_lower_bound, guess
from mosaic_secure.audit.sum_canaries import Evidence, Measurement, SumCanaries, measure
from privacy.mechanisms import Statistic, SumMechanism
from privacy.randomness import NoiseSource, reproducible_secret

DELTA = 1e-5
MOMENTS = (Statistic("class_sums", 1.0), Statistic("second_moments", 1.5), Statistic("counts", 0.5))
KINDS = [
    MOMENTS,
    (Statistic("code_sum"), Statistic("class_second_moments", 0.7)),
    (Statistic("gradient", clip=0.5),),
]


def mechanism(noise: float, statistics: tuple[Statistic, ...] = MOMENTS, dim: int = 80) -> SumMechanism:
    return SumMechanism(statistics, dim, 5, noise)


def released(
    mechanism: SumMechanism, canaries: SumCanaries, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A release of 60 records and the canaries that are in, and what the records alone sum to."""
    rng = np.random.default_rng([seed, 1])
    codes, labels = rng.normal(0, 0.1, (60, mechanism.dim)), rng.integers(0, 5, 60)
    more, names = canaries.present
    source = NoiseSource(reproducible_secret(seed, "canaries"), "release")
    silent = dataclasses.replace(mechanism, noise_multiplier=0.0)
    known = silent.release(codes, labels, source.child("known"), weights)
    both = np.concatenate([codes, more]), np.concatenate([labels, names])
    return mechanism.release(*both, source.child("all"), weights), known


def together(measurements: list[Measurement]) -> Evidence:
    out = Evidence(len(measurements[0].products))
    for measurement in measurements:
        out.add(measurement)
    return out


def found(mechanism: SumMechanism, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates, their variances, and the coins."""
    rng = np.random.default_rng([seed, 2])
    canaries = SumCanaries.draw(mechanism.dim, mechanism.classes, count, rng)
    weights = rng.normal(0, 0.1, (mechanism.dim, mechanism.classes))
    release, known = released(mechanism, canaries, seed, weights)
    measured = measure(mechanism, release, known, canaries.codes, canaries.labels, weights)
    return *together([measured]).estimate(), canaries.included


@pytest.mark.parametrize("statistics", KINDS)
def test_without_noise_every_canary_is_told(statistics: tuple[Statistic, ...]):
    values, variances, included = found(mechanism(0.0, statistics), 40, seed=0)
    np.testing.assert_allclose(values, included, atol=0.02)  # the grid rounds
    assert ((values - included) ** 2 < 36 * variances).all()


@pytest.mark.parametrize("statistics", KINDS)
@pytest.mark.parametrize(("noise", "count"), [(1.0, 200), (0.2, 200), (1.0, 600)])
def test_estimates_err_by_as_much_as_they_say(statistics: tuple[Statistic, ...], noise: float, count: int):
    """Also where canaries are more than the release has numbers. Means of 1,000 squares or more, each of
    expectation 1: within 0.25 in all but one of 10,000 seeds."""
    squares = []
    for seed in range(5):
        values, variances, included = found(mechanism(noise, statistics), count, seed)
        squares.append((values - included) ** 2 / variances)
    assert np.mean(squares) == pytest.approx(1.0, abs=0.25)


def test_several_measurements_say_more_than_one():
    rng = np.random.default_rng(7)
    made = mechanism(1.0)
    canaries = SumCanaries.draw(made.dim, made.classes, 100, rng)
    each = []
    for seed in range(9):
        release, known = released(made, canaries, seed)
        each.append(measure(made, release, known, canaries.codes, canaries.labels))
    one, all_nine = (together(part).evidence()[canaries.included].mean() for part in (each[:1], each))
    assert 0 < 5 * one < all_nine


def test_the_bound_is_near_that_of_ideal_scores():
    """At least 60 % of what the same estimator makes of Gaussians of the same mu; means of ten releases."""
    noise, count, side = 0.5, 400, 50
    ours, ideal = [], []
    for seed in range(10):
        values, _, included = found(mechanism(noise), count, seed)
        ours.append(epsilon_lower_bound(guess(values, included, side), DELTA, family="gaussian"))
        rng = np.random.default_rng([seed, 3])
        coins = rng.random(count) < 0.5
        drawn = guess(coins + noise * rng.normal(size=count), coins, side)
        ideal.append(epsilon_lower_bound(drawn, DELTA, family="gaussian"))
    assert np.mean(ideal) > 3
    assert np.mean(ours) >= 0.6 * np.mean(ideal)


def refuted(made: SumMechanism, claim: float, seeds: range) -> int:
    """How often the claim of a noise multiplier falls at the 95 % level."""
    fallen = 0
    for seed in seeds:
        values, _, included = found(made, 400, seed)
        fallen += chance_of_guesses(guess(values, included, 50), GaussianDP(1 / claim)) <= 0.05
    return fallen


def test_honest_mechanisms_stand_and_halved_noise_falls():
    """Of 100 honest ones at most 10 fall: more by chance in less than one of 80 seeds if the level were met
    exactly, and the bound is far from that."""
    assert refuted(mechanism(1.0), 1.0, range(100)) <= 10
    assert refuted(mechanism(0.5), 1.0, range(20)) >= 15


def test_records_that_are_not_clipped_are_caught(monkeypatch: pytest.MonkeyPatch):
    """The mutation: codes pass as they are."""
    monkeypatch.setattr(SumMechanism, "_clipped", lambda _, codes, labels: (codes, labels))
    assert refuted(mechanism(1.0), 1.0, range(20)) >= 18


def test_releases_compose_as_gaussians_do():
    nothing = Measurement(np.zeros(2), np.zeros((2, 2)), 1.0)
    made = Evidence(2)
    for mu in (3.0, 4.0):
        made.add(nothing, mu)
    assert (made.rounds, made.mu) == (2, 5.0)
