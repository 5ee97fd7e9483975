"""Bounds from one run hold for mechanisms whose epsilon is known, and are as sharp as they can be.

Simulations draw from fixed seeds, so they pass or fail for good; the rates named beside them are those at
which a fresh seed would fail.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attacks.onerun import (
    ApproximateDP,
    GaussianDP,
    Guesses,
    chance_of_guesses,
    epsilon_lower_bound,
    gaussian_mu,
)
from attacks.statistics import tpr_ceiling

EPSILONS = st.floats(0, 8)
DELTAS = st.sampled_from([0.0, 1e-6, 1e-3])


@st.composite
def counts(draw: st.DrawFn) -> Guesses:
    canaries = draw(st.integers(1, 300))
    made = draw(st.integers(0, canaries))
    return Guesses(canaries, made, draw(st.integers(0, made)))


@pytest.mark.parametrize(("epsilon", "made", "correct"), [(0.0, 30, 20), (0.7, 50, 40), (2.5, 200, 190)])
def test_randomised_response_is_met_exactly(epsilon: float, made: int, correct: int):
    """An attacker of m randomised coins is right m times independently: no bound could be smaller."""
    exact = stats.binom.sf(correct - 1, made, 1 / (1 + math.exp(-epsilon)))
    assert chance_of_guesses(Guesses(made, made, correct), ApproximateDP(epsilon)) == pytest.approx(exact)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("canaries", "side"), [(400, 200), (400, 40), (100, 5)])
def test_a_true_guarantee_is_rarely_refuted(mu: float, canaries: int, side: int):
    """At most 5 % of runs of an honest Gaussian mechanism; by chance above 32 of 400 once in 200 seeds."""
    rng = np.random.default_rng([canaries, side, int(10 * mu)])
    delta = 1e-5
    claims = (GaussianDP(mu), ApproximateDP(epsilon_of(mu, delta), delta))
    refuted = np.zeros(len(claims))
    for _ in range(400):
        coins = rng.integers(0, 2, canaries)
        order = np.argsort(coins * mu + rng.normal(size=canaries))
        correct = int(coins[order[-side:]].sum() + (1 - coins[order[:side]]).sum())
        guesses = Guesses(canaries, 2 * side, correct)
        refuted += [chance_of_guesses(guesses, claim) <= 0.05 for claim in claims]
    assert (refuted <= 32).all(), refuted


def epsilon_of(mu: float, delta: float) -> float:
    low, high = 0.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_mu(middle, delta) < mu else (low, middle)
    return high


def test_guesses_that_hang_together_refute_nothing():
    """A mechanism that tells one random canary's bit, and an attacker who then says that bit of all: guesses
    depend on each other as much as they can. By chance above 32 of 400 once in 200 seeds, at most."""
    rng = np.random.default_rng(5)
    epsilon, canaries, refuted = 1.0, 60, 0
    for _ in range(400):
        coins = rng.integers(0, 2, canaries)
        chosen = rng.integers(canaries)  # the mechanism tells of one canary alone, and says of which
        told = coins[chosen] if rng.random() < 1 / (1 + math.exp(-epsilon)) else 1 - coins[chosen]
        correct = int(told == coins[chosen]) + int((coins == told).sum() - (coins[chosen] == told))
        refuted += chance_of_guesses(Guesses(canaries, canaries, correct), ApproximateDP(epsilon)) <= 0.05
    assert refuted <= 32


@settings(max_examples=60, deadline=None)
@given(counts(), EPSILONS, DELTAS)
def test_more_right_guesses_are_less_likely_and_more_epsilon_allows_more(
    guesses: Guesses, epsilon: float, delta: float
):
    here = chance_of_guesses(guesses, ApproximateDP(epsilon, delta))
    assert 0 <= here <= 1
    assert chance_of_guesses(guesses, ApproximateDP(epsilon + 0.5, delta)) >= here - 1e-12
    if guesses.correct < guesses.made:
        more = Guesses(guesses.canaries, guesses.made, guesses.correct + 1)
        assert chance_of_guesses(more, ApproximateDP(epsilon, delta)) <= here + 1e-12
        if 0 < epsilon < 6:
            curve = GaussianDP(epsilon / 2)
            assert chance_of_guesses(more, curve) <= chance_of_guesses(guesses, curve) + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), EPSILONS, st.sampled_from([0.0, 1e-6, 1e-3, 0.1]))
def test_the_smallest_probability_is_the_ceilings_inverse(reached: float, epsilon: float, delta: float):
    smallest = ApproximateDP(epsilon, delta).smallest(reached)
    assert 0 <= smallest <= max(reached, 0.0) + 1e-12
    assert tpr_ceiling(epsilon, delta, min(1.0, smallest)) >= reached - 1e-9
    if smallest > 1e-6:
        assert tpr_ceiling(epsilon, delta, smallest * (1 - 1e-6)) <= reached + 1e-9


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (4.0, 1e-4), (10.0, 1e-6)])
def test_gaussian_mu_is_the_known_noise(epsilon: float, delta: float):
    """Against dp-accounting, which solves for the noise of a Gaussian mechanism in another way."""
    accounting = pytest.importorskip("dp_accounting")
    known = 1 / accounting.get_sigma_gaussian(epsilon, delta)
    assert gaussian_mu(epsilon, delta) == pytest.approx(known, rel=1e-6)


def test_the_bound_of_a_family_is_larger_and_all_right_is_not_infinite():
    guesses = Guesses(1000, 200, 196)
    every, gaussian = (epsilon_lower_bound(guesses, 1e-5, family=f) for f in ("approximate", "gaussian"))
    assert 2 < every < gaussian < 8
    assert epsilon_lower_bound(Guesses(1000, 200, 96), 1e-5) == 0.0
    best = epsilon_lower_bound(Guesses(500, 500, 500), 0.0)
    assert best == pytest.approx(math.log(0.05 ** (1 / 500) / (1 - 0.05 ** (1 / 500))))
    assert epsilon_lower_bound(Guesses(500, 500, 500), 0.0, confidence=0.99) < best


@pytest.mark.parametrize("bad", [(0, 0, 0), (5, 6, 1), (5, 3, 4), (5, 3, -1)])
def test_impossible_counts_are_refused(bad: tuple[int, int, int]):
    with pytest.raises(ValueError, match="correct = "):
        Guesses(*bad)


def test_values_out_of_range_are_refused():
    guesses = Guesses(10, 10, 9)
    with pytest.raises(ValueError, match="confidence"):
        epsilon_lower_bound(guesses, 1e-5, 1.0)
    with pytest.raises(ValueError, match="delta"):
        epsilon_lower_bound(guesses, 1.0)
    with pytest.raises(ValueError, match="delta"):
        epsilon_lower_bound(guesses, 0.0, family="gaussian")
