"""Canaries inside one release of sums, scored by whoever sees the release.

The auditor knows every record but the canaries, and of each canary all but whether it is in. What the release
says about each is then a linear measurement with noise; solving for all of them at once leaves nothing but
that noise. No attack on a sum does much better, so a bound from these scores is near what any could reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from privacy.mechanisms import Statistic, SumMechanism

__all__ = ["SumCanaries", "scores"]


@dataclass(frozen=True)
class SumCanaries:
    """Records of the largest norm, in directions of their own.

    Attributes:
        codes: float64 [m, dim], of norm 1. labels: int64 [m].
        included: bool [m], by fair coins.
    """

    codes: np.ndarray
    labels: np.ndarray
    included: np.ndarray

    @classmethod
    def draw(cls, mechanism: SumMechanism, count: int, rng: np.random.Generator) -> SumCanaries:
        """`count` canaries in random directions and classes."""
        codes = rng.normal(size=(count, mechanism.dim))
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        labels = rng.integers(0, mechanism.classes, count)
        return cls(codes, labels, rng.random(count) < 0.5)

    @property
    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels of those that are in, to be put among a client's records."""
        return self.codes[self.included], self.labels[self.included]


def scores(
    mechanism: SumMechanism,
    released: np.ndarray,
    known: np.ndarray,
    canaries: SumCanaries,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """How much of each canary is in the release, float64 [m]: about 1 if it is in, about 0 if not.

    Args:
        released: int64 [length], of records and canaries, or a sum of several clients' releases.
        known: [length], what the records alone sum to on the mechanism's grid, without noise.
        weights: [dim, classes] of the broadcast model, for "gradient".

    Raises:
        PrivacyError: the canaries cannot be told apart: there are more of them than the release has numbers.
    """
    found = mechanism.decode(np.asarray(released) - np.asarray(known))
    errors = _errors(mechanism, canaries, weights)
    measured = np.zeros(len(canaries.labels))
    overlaps = np.zeros((len(canaries.labels),) * 2)
    for statistic in mechanism.statistics:
        measured += statistic.weight**2 * _measured(statistic, found, canaries, errors)
        overlaps += statistic.weight**2 * _overlaps(statistic, canaries, errors)
    try:
        return np.linalg.solve(overlaps, measured)
    except np.linalg.LinAlgError:
        raise PrivacyError(
            f"canaries: {len(measured)} cannot be told apart in {mechanism.length} numbers; use fewer"
        ) from None


def _errors(mechanism: SumMechanism, canaries: SumCanaries, weights: np.ndarray | None) -> np.ndarray | None:
    """The factor of each canary's gradient beside its code, [m, classes]; None without a gradient."""
    gradient = next((s for s in mechanism.statistics if s.kind == "gradient"), None)
    if gradient is None:
        return None
    mechanism.check_weights(weights)
    logits = canaries.codes @ weights
    errors = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(errors)), canaries.labels] -= 1
    return errors / np.maximum(np.linalg.norm(errors, axis=1, keepdims=True) / gradient.bound, 1.0)


def _measured(
    statistic: Statistic, found: Mapping[str, np.ndarray], canaries: SumCanaries, errors: np.ndarray | None
) -> np.ndarray:
    """Inner product of what was found with each canary's own statistic, [m]."""
    codes, labels, block = canaries.codes, canaries.labels, found[statistic.kind]
    if statistic.kind == "counts":
        return block[labels]
    if statistic.kind == "code_sum":
        return codes @ block
    if statistic.kind == "class_sums":
        return np.einsum("md,dm->m", codes, block[:, labels])
    if statistic.kind == "gradient":
        return np.einsum("md,dk,mk->m", codes, block, errors, optimize=True)
    if statistic.kind == "second_moments":
        return np.einsum("md,md->m", codes @ block, codes)
    return np.array([code @ block[label] @ code for code, label in zip(codes, labels, strict=True)])


def _overlaps(statistic: Statistic, canaries: SumCanaries, errors: np.ndarray | None) -> np.ndarray:
    """Inner products of the canaries' statistics with each other, [m, m]."""
    angles = canaries.codes @ canaries.codes.T
    same = canaries.labels[:, None] == canaries.labels
    if statistic.kind == "gradient":
        return angles * (errors @ errors.T)
    return {
        "counts": same.astype(np.float64),
        "code_sum": angles,
        "class_sums": angles * same,
        "second_moments": angles**2,
        "class_second_moments": angles**2 * same,
    }[statistic.kind]
