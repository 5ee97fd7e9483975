"""How well scores tell members from others: error rates, their intervals, and what they mean for one person.

Scores are larger for records that look more like members. An attack *catches* a member (true positive) or
raises a *false alarm* (false positive). Intervals hold for members and others that were drawn independently,
and for thresholds that were chosen without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    "Interval",
    "Rate",
    "Roc",
    "adjusted",
    "area",
    "binomial_interval",
    "catch_rate",
    "precision",
    "resolvable",
]


@dataclass(frozen=True)
class Interval:
    """`low` <= true value <= `high` with the stated confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """A share of records, with its exact interval.

    Attributes:
        hits: of `trials` records.
        interval: of Clopper and Pearson.
    """

    hits: int
    trials: int
    interval: Interval

    @property
    def value(self) -> float:
        """hits / trials."""
        return self.hits / self.trials

    @classmethod
    def of(cls, hits: int, trials: int, confidence: float = 0.95) -> Rate:
        """The rate of `hits` among `trials`."""
        return cls(hits, trials, binomial_interval(hits, trials, confidence))


def binomial_interval(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """Two-sided interval of Clopper and Pearson (1934): never less confident than it says.

    Raises:
        ValueError: unless 0 <= hits <= trials, trials >= 1 and 0 < confidence < 1.
    """
    if not (0 <= hits <= trials and trials >= 1):
        raise ValueError(f"{hits} of {trials}: must be 0 <= hits <= trials, and at least one trial")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
    left = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(left, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(stats.beta.ppf(1 - left, hits + 1, trials - hits))
    return Interval(low, high)


@dataclass(frozen=True)
class Roc:
    """Error rates at every threshold, from the strictest to the laxest.

    Attributes:
        thresholds: float64 [T], falling; a record is called a member if its score is at least this. The first
            is infinite, the last the lowest score.
        false_alarms, caught: int64 [T], counts that never fall.
        others, members: how many records of each kind there are.
    """

    thresholds: np.ndarray
    false_alarms: np.ndarray
    caught: np.ndarray
    others: int
    members: int

    @classmethod
    def of(cls, members: np.ndarray, others: np.ndarray) -> Roc:
        """The curve of two sets of scores, both not empty and finite or infinite, but never NaN.

        Raises:
            ValueError: a set is empty or holds NaN.
        """
        members, others = (_checked(name, s) for name, s in (("members", members), ("others", others)))
        thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([members, others]))[::-1]])
        # A score of +inf is above every threshold but equals the first, which calls nobody a member.
        caught = len(members) - np.searchsorted(np.sort(members), thresholds, side="left")
        alarms = len(others) - np.searchsorted(np.sort(others), thresholds, side="left")
        caught[0] = alarms[0] = 0
        return cls(thresholds, alarms, caught, len(others), len(members))

    @property
    def fpr(self) -> np.ndarray:
        """False-positive rates, float64 [T]."""
        return self.false_alarms / self.others

    @property
    def tpr(self) -> np.ndarray:
        """True-positive rates, float64 [T]."""
        return self.caught / self.members

    def at(self, fpr: float) -> int:
        """Index of the laxest threshold whose false-positive rate is at most `fpr`."""
        return int(np.searchsorted(self.false_alarms, fpr * self.others + 1e-9, side="right")) - 1

    def best(self) -> int:
        """Index of the threshold of the best balanced accuracy; the strictest of equals."""
        return int(np.argmax(self.tpr - self.fpr))


def resolvable(others: int, fpr: float) -> bool:
    """Whether so many non-members can tell a false-positive rate: at least one may be a false alarm."""
    return fpr * others >= 1 - 1e-9


def catch_rate(members: np.ndarray, others: np.ndarray, fpr: float, confidence: float = 0.95) -> Rate | None:
    """True-positive rate at a false-positive rate of at most `fpr`; None where that cannot be resolved.

    The interval is of the share of members above the threshold that these non-members gave; that the
    threshold itself was estimated is not in it.
    """
    if not resolvable(len(others), fpr):
        return None
    curve = Roc.of(members, others)
    return Rate.of(int(curve.caught[curve.at(fpr)]), curve.members, confidence)


def area(members: np.ndarray, others: np.ndarray, confidence: float = 0.95) -> tuple[float, Interval]:
    """Area under the ROC curve: the probability that a member scores above a non-member, ties counting half.

    The interval is of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), on the logit scale, so that it
    stays within [0, 1]. With all scores apart (an area of 0 or 1) the variance says nothing, and one end is
    that of Clopper and Pearson for the smaller set; from a single record of a kind nothing follows.
    """
    members, others = (_checked(name, s) for name, s in (("members", members), ("others", others)))
    ranks = stats.rankdata(np.concatenate([members, others]))
    count, rest = len(members), len(others)
    above = (ranks[:count] - stats.rankdata(members)) / rest  # [M]: share of others below each member
    below = 1 - (ranks[count:] - stats.rankdata(others)) / count  # [N]: share of members above each other
    value = float(above.mean())
    fewer = min(count, rest)
    if fewer < 2:
        return value, Interval(0.0, 1.0)
    if value in (0.0, 1.0):
        return value, binomial_interval(fewer if value else 0, fewer, confidence)
    spread = np.sqrt(above.var(ddof=1) / count + below.var(ddof=1) / rest)
    reach = stats.norm.ppf((1 + confidence) / 2) * spread / (value * (1 - value))
    centre = np.log(value / (1 - value))
    low, high = (float(1 / (1 + np.exp(-(centre + side * reach)))) for side in (-1, 1))
    return value, Interval(low, high)


def precision(tpr: float, fpr: float, prior: float) -> float | None:
    """Of the records that an attack calls members, the share that are, when a share `prior` of all are.

    None where it calls nobody a member.
    """
    if not 0 <= prior <= 1:
        raise ValueError(f"prior must be in [0, 1]; got {prior!r}")
    caught, alarms = tpr * prior, fpr * (1 - prior)
    return caught / (caught + alarms) if caught + alarms > 0 else None


def adjusted(p_values: Mapping[str, float], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Holm's adjustment (1979): those at most alpha are significant at a family-wise error of alpha.

    Valid however the tests depend on each other.

    Args:
        weights: test -> share of alpha that it begins with, > 0, fixed before anything is seen; equal ones
            where None. A test of large weight needs less evidence at the others' cost (section 4 there).

    Raises:
        ValueError: a p-value is not in [0, 1], or a weight is not above 0.
    """
    shares = {name: 1.0 if weights is None else float(weights[name]) for name in p_values}
    for name, value in p_values.items():
        if not 0 <= value <= 1 or not 0 < shares[name] < np.inf:
            raise ValueError(
                f"{name}: p-value must be in [0, 1] and weight above 0; got {value!r}, {shares[name]!r}"
            )
    order: Sequence[str] = sorted(p_values, key=lambda name: p_values[name] / shares[name])
    out: dict[str, float] = {}
    running = 0.0
    for place, name in enumerate(order):
        left = sum(shares[other] for other in order[place:])
        running = max(running, min(1.0, p_values[name] * (left / shares[name])))
        out[name] = running
    return {name: out[name] for name in p_values}


def _checked(name: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64).ravel()
    if not len(scores) or np.isnan(scores).any():
        raise ValueError(f"scores of {name}: must be at least one, and none NaN")
    return scores
