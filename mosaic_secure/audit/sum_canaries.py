"""Canaries inside releases of sums, measured by whoever sees the sums.

The auditor knows every record but the canaries, and of each canary all but whether it is in. What a release
says about each is then a linear measurement with noise; solving for all of them at once leaves nothing but
that noise. No attack on a sum does much better, so a bound from these measurements is near the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from privacy.mechanisms import Statistic, SumMechanism

__all__ = ["Evidence", "Measurement", "SumCanaries", "measure"]

BEYOND = 3.0
"""Norm of a canary's code; a mechanism clips codes to 1."""


@dataclass(frozen=True)
class SumCanaries:
    """Records in directions of their own, longer than a record may be: they count as one only if clipped.

    Attributes:
        codes: float64 [m, dim], of norm `BEYOND`. labels: int64 [m].
        included: bool [m], by fair coins.
    """

    codes: np.ndarray
    labels: np.ndarray
    included: np.ndarray

    @classmethod
    def draw(cls, dim: int, classes: int, count: int, rng: np.random.Generator) -> SumCanaries:
        """`count` canaries in random directions and classes."""
        codes = rng.normal(size=(count, dim))
        codes *= BEYOND / np.linalg.norm(codes, axis=1, keepdims=True)
        return cls(codes, rng.integers(0, classes, count), rng.random(count) < 0.5)

    @property
    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels of those that are in, to be put among a client's records."""
        return self.codes[self.included], self.labels[self.included]


@dataclass(frozen=True)
class Measurement:
    """What one release says about the canaries, in the directions of their own statistics.

    Attributes:
        products: float64 [m], inner product of what is unexplained in the sum with each canary's statistic.
        overlaps: float64 [m, m], inner products of the canaries' statistics with each other.
        variance: of the noise on one coordinate, above 0.
    """

    products: np.ndarray
    overlaps: np.ndarray
    variance: float


def measure(
    mechanism: SumMechanism,
    released: np.ndarray,
    known: np.ndarray,
    codes: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    contributors: int = 1,
) -> Measurement:
    """What a sum says about canaries.

    Args:
        mechanism: that of each contributor.
        released: [length], the sum over all contributors of records and canaries, with noise.
        known: [length], the same of the records alone, without noise.
        codes, labels: of the canaries, as the client has them right before it releases; codes longer than 1
            are clipped here as there.
        weights: [dim, classes] of the broadcast model, for "gradient".
        contributors: clients in the sum.
    """
    codes = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1.0)
    found = mechanism.decode(np.asarray(released, dtype=np.float64) - known)
    errors = _errors(mechanism, codes, labels, weights)
    products, overlaps = np.zeros(len(labels)), np.zeros((len(labels),) * 2)
    for statistic in mechanism.statistics:
        square = statistic.weight**2
        products += square * _products(statistic, found, codes, labels, errors)
        overlaps += square * _overlaps(statistic, codes, labels, errors)
    # Beside the noise, a coordinate holds what rounding left of each contributor's own sum.
    variance = contributors * (mechanism.own_std**2 + 1 / 12) / mechanism.grid**2
    return Measurement(products, overlaps, variance)


class Evidence:
    """What several releases say together about `count` canaries; each is taken in and forgotten.

    Attributes:
        rounds: how many were taken in.
        mu: of all of them as one Gaussian mechanism: what one record may change, in standard deviations.
    """

    def __init__(self, count: int) -> None:
        # A fair coin: mean 1/2, variance 1/4.
        self._precision, self._pull = 4.0 * np.eye(count), np.full(count, 2.0)
        self.rounds, self.mu = 0, 0.0

    def add(self, found: Measurement, mu: float = 0.0) -> None:
        """Take in one release; `mu` is its own."""
        self._precision += found.overlaps / found.variance
        self._pull += found.products / found.variance
        self.rounds, self.mu = self.rounds + 1, math.hypot(self.mu, mu)

    def estimate(self) -> tuple[np.ndarray, np.ndarray]:
        """How much of each canary is in, float64 [m], and the variance of that, [m].

        The best linear estimate, where each canary is in with probability 1/2: its error has the stated
        variance, whatever the canaries overlap in.
        """
        covariance = np.linalg.inv(self._precision)
        return covariance @ self._pull, covariance.diagonal()

    def evidence(self) -> np.ndarray:
        """Scores of being in, float64 [m]: log-likelihood ratios, were the errors of `estimate` Gaussian."""
        means, variances = self.estimate()
        return (means - 0.5) / variances


def _errors(
    mechanism: SumMechanism, codes: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> np.ndarray | None:
    """The factor of each canary's gradient beside its code, [m, classes]; None without a gradient."""
    gradient = next((s for s in mechanism.statistics if s.kind == "gradient"), None)
    if gradient is None:
        return None
    mechanism.check_weights(weights)
    logits = codes @ weights
    errors = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(errors)), labels] -= 1
    norms = np.linalg.norm(codes, axis=1) * np.linalg.norm(errors, axis=1)
    return errors / np.maximum(norms / gradient.bound, 1.0)[:, None]


def _products(
    statistic: Statistic,
    found: Mapping[str, np.ndarray],
    codes: np.ndarray,
    labels: np.ndarray,
    errors: np.ndarray | None,
) -> np.ndarray:
    """Inner product of what was found with each canary's own statistic, [m]."""
    block = found[statistic.kind]
    if statistic.kind == "counts":
        return block[labels]
    if statistic.kind == "code_sum":
        return codes @ block
    if statistic.kind == "class_sums":
        return np.einsum("md,dm->m", codes, block[:, labels])
    if statistic.kind == "gradient":
        return ((codes @ block) * errors).sum(axis=1)
    if statistic.kind == "second_moments":
        return ((codes @ block) * codes).sum(axis=1)
    return np.array([code @ block[label] @ code for code, label in zip(codes, labels, strict=True)])


def _overlaps(
    statistic: Statistic, codes: np.ndarray, labels: np.ndarray, errors: np.ndarray | None
) -> np.ndarray:
    """Inner products of the canaries' statistics with each other, [m, m]."""
    angles = codes @ codes.T
    same = (labels[:, None] == labels).astype(np.float64)
    return {
        "counts": lambda: same,
        "code_sum": lambda: angles,
        "class_sums": lambda: angles * same,
        "gradient": lambda: angles * (errors @ errors.T),
        "second_moments": lambda: angles**2,
        "class_second_moments": lambda: angles**2 * same,
    }[statistic.kind]()
