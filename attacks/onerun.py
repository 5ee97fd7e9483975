"""A lower bound on epsilon from one training run: guess which canaries were in it, and count.

Each of m canaries is put into the training data with probability 1/2, by independent fair coins, before
anything is trained. From the released result alone an attacker guesses, for a number of canaries fixed
beforehand, whether they were in; about the others it says nothing. A differentially private result makes many
correct guesses improbable, however the guesses depend on each other: that is what is counted here.

Two bounds of that probability are known; both hold for every attacker and any dependence between canaries:

- Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run" (arXiv 2305.08846): for
  (epsilon, delta).
- Mahloujifar, Melis and Chaudhuri, "Auditing f-differential privacy in one run" (arXiv 2410.22235): for a
  whole trade-off curve, such as a Gaussian mechanism's, which forbids more than one point of it.

What neither says: how private the run is. A low bound may mean a private run or a weak attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import special, stats

__all__ = [
    "ApproximateDP",
    "GaussianDP",
    "Guesses",
    "TradeOff",
    "chance_of_guesses",
    "epsilon_lower_bound",
    "gaussian_mu",
    "guess",
]

LARGEST_EPSILON = 1e3
STEPS = 60  # halvings of an interval: to about 1e-16 of its width


@dataclass(frozen=True)
class Guesses:
    """What an attacker said about canaries, and how often it was right.

    Attributes:
        canaries: m >= 1, each in the data with probability 1/2.
        made: canaries about which something was said; fixed before the result was seen.
        correct: of those, how many were right.

    Raises:
        ValueError: unless 0 <= correct <= made <= canaries.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if self.canaries < 1 or not 0 <= self.correct <= self.made <= self.canaries:
            raise ValueError(
                f"correct = {self.correct}, made = {self.made}, canaries = {self.canaries}: must be whole "
                "numbers with 0 <= correct <= made <= canaries and canaries >= 1"
            )


def guess(scores: np.ndarray, included: np.ndarray, each_side: int) -> Guesses:
    """Call the `each_side` highest scores in, the `each_side` lowest out, and say nothing of the rest.

    Args:
        scores: float [m], larger for canaries that look included; drawn apart by position where equal.
        included: bool [m], the coins.
        each_side: from 1 to m / 2; to be fixed before the result is seen.

    Raises:
        ValueError: shapes do not fit, a score is NaN, or there are too few canaries.
    """
    scores, included = np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=bool)
    if scores.ndim != 1 or scores.shape != included.shape or np.isnan(scores).any():
        raise ValueError(f"scores {scores.shape}, included {included.shape}: must be [m] both, and none NaN")
    if not 1 <= each_side <= len(scores) // 2:
        raise ValueError(
            f"each_side = {each_side}: must be from 1 to {len(scores) // 2}, half of the canaries"
        )
    order = np.argsort(scores, kind="stable")
    correct = included[order[-each_side:]].sum() + (~included[order[:each_side]]).sum()
    return Guesses(len(scores), 2 * each_side, int(correct))


class TradeOff(Protocol):
    """Which pairs of error rates a guarantee allows."""

    def smallest(self, reached: float) -> float:
        """The least probability in [0, 1] that an event of probability `reached` has with one record less, or
        one more."""


@dataclass(frozen=True)
class ApproximateDP:
    """All that (epsilon, delta) allows.

    Attributes:
        epsilon: >= 0. delta: in [0, 1].
    """

    epsilon: float
    delta: float = 0.0

    def smallest(self, reached: float) -> float:
        """As of `TradeOff`: the inverse of `attacks.statistics.tpr_ceiling` in its third argument."""
        shrunk = math.exp(-self.epsilon) * (reached - self.delta)
        grown = math.exp(min(self.epsilon, 700.0)) * (1.0 - reached)
        return max(0.0, shrunk, 1.0 - self.delta - grown)


@dataclass(frozen=True)
class GaussianDP:
    """All that a Gaussian mechanism allows whose sensitivity is `mu` standard deviations of its noise.

    Dong, Roth and Su, "Gaussian differential privacy" (arXiv 1905.02383), definition 2.6.
    """

    mu: float

    def smallest(self, reached: float) -> float:
        """As of `TradeOff`."""
        return float(special.ndtr(special.ndtri(reached) - self.mu))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism that is (epsilon, delta)-DP and no better.

    Args:
        epsilon: >= 0. delta: in (0, 1).

    Raises:
        ValueError: delta is 0 or 1, which no Gaussian mechanism has.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1); got {delta!r}")

    def excess(mu: float) -> float:  # arXiv 1905.02383, corollary 2.13
        first = special.log_ndtr(mu / 2 - epsilon / mu)
        second = epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)
        return math.exp(first) - math.exp(min(second, 700.0)) - delta

    low, high = 0.0, 1.0
    while excess(high) < 0:
        low, high = high, 2 * high
    return _last(lambda mu: mu == 0 or excess(mu) <= 0, low, high)


def chance_of_guesses(guesses: Guesses, allowed: TradeOff) -> float:
    """The most likely that a guarantee lets so many correct guesses, or more, be: a p-value against it.

    For (epsilon, delta) both bounds hold, and the smaller one is taken.

    Args:
        guesses: `made` must have been fixed beforehand; otherwise the bound does not hold.
        allowed: the guarantee.
    """
    if guesses.correct == 0:
        return 1.0
    chance = _last(lambda chance: not _contradicts(guesses, allowed, chance), 0.0, 1.0)
    if isinstance(allowed, ApproximateDP):
        chance = min(chance, _steinke(guesses, allowed.epsilon, allowed.delta))
    return chance


def epsilon_lower_bound(
    guesses: Guesses,
    delta: float,
    confidence: float = 0.95,
    family: Literal["approximate", "gaussian"] = "approximate",
) -> float:
    """The largest epsilon that so many correct guesses speak against.

    Args:
        delta: of the guarantees tested; in [0, 1), above 0 for "gaussian".
        confidence: in (0, 1). With this probability, over coins and training, the result is not above the
            true epsilon, if the mechanism belongs to the family.
        family: "approximate" tests every mechanism, "gaussian" Gaussian ones: a larger bound, which says
            nothing of mechanisms that are no Gaussian ones.

    Returns:
        Epsilon in [0, 1000]; 0 if nothing can be said.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1); got {delta!r}")

    def refuted(epsilon: float) -> bool:
        allowed: TradeOff = ApproximateDP(epsilon, delta)
        if family == "gaussian":
            allowed = GaussianDP(gaussian_mu(epsilon, delta))
        if guesses.correct > 0 and _contradicts(guesses, allowed, 1 - confidence):
            return True
        return family == "approximate" and _steinke(guesses, epsilon, delta) <= 1 - confidence

    if not refuted(0.0):
        return 0.0
    high = 1.0
    while high < LARGEST_EPSILON and refuted(high):
        high *= 2
    return _last(refuted, 0.0, min(high, LARGEST_EPSILON))


def _steinke(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The main theorem of arXiv 2305.08846 (section 5), for coins of probability 1/2."""
    right = special.expit(epsilon)
    tail = float(stats.binom.sf(guesses.correct - 1, guesses.made, right))
    if delta == 0 or guesses.correct == 0:
        return tail
    back = np.arange(1, guesses.correct + 1)
    window = stats.binom.sf(guesses.correct - back - 1, guesses.made, right) - tail
    return float(min(1.0, tail + 2 * guesses.canaries * delta * max(0.0, float((window / back).max()))))


def _contradicts(guesses: Guesses, allowed: TradeOff, chance: float) -> bool:
    """Whether the guarantee rules out that at least `correct` guesses are right with probability `chance`.

    Of a canary drawn at random, let r_i be the probability that it is guessed right and at least i are right
    in all, and h_i that it is guessed wrong and at least i are. Turning the canary's own coin makes a right
    guess wrong and leaves one less right, so h_(i-1) is at least what the guarantee leaves of r_i. Going down
    from i = `correct` this forces ever more probability; more than all of it is the contradiction.
    """
    made, correct, canaries = guesses.made, guesses.correct, guesses.canaries
    right, wrong = chance * correct / canaries, chance * (made - correct) / canaries
    for count in range(correct - 1, -1, -1):
        forced = allowed.smallest(right)
        if forced <= wrong:
            break  # nothing below is forced either
        right = min(1.0, right + count / (made - count) * (forced - wrong))
        wrong = forced
        if right + wrong > made / canaries:
            return True
    return right + wrong > made / canaries


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest point of [low, high] up to which `holds` is true, to within rounding; it is true at low."""
    if holds(high):
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
