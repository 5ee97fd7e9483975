"""What membership scores amount to, in the numbers that a report needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attacks.rates import Interval, Rate, Roc, area, catch_rate, precision, resolvable
from attacks.statistics import tpr_ceiling

__all__ = ["FALSE_ALARMS", "PRIORS", "Caught", "Group", "Summary", "summarise"]

FALSE_ALARMS = (0.001, 0.01, 0.1)
PRIORS = (0.01, 0.1, 0.5)


@dataclass(frozen=True)
class Caught:
    """Members caught at one false-positive rate.

    Attributes:
        fpr: the rate that is kept. rate: of members caught; None where too few non-members resolve `fpr`.
        at_most: what the guarantee allows any attack; 1 without one.
        precision: prior share of members -> share of alarms that are right; None where there is no alarm.
    """

    fpr: float
    rate: Rate | None
    at_most: float
    precision: Mapping[float, float | None]


@dataclass(frozen=True)
class Group:
    """A class or a client, by the area under the curve of its own members against its own non-members."""

    name: str
    members: int
    others: int
    area: float
    interval: Interval


@dataclass(frozen=True)
class Summary:
    """One attack's scores, described. No verdict: that needs membership drawn at random beforehand.

    Attributes:
        members, others: how many there are.
        resolvable_fpr: the smallest of `FALSE_ALARMS` that they can tell, if any.
        area, area_interval: under the ROC curve.
        balanced_accuracy: on one random half, at the threshold that was best on the other.
        caught: at each of `FALSE_ALARMS`. worst: the group of each kind with the largest area.
        curve: false- and true-positive rates for a picture, at most a few hundred points.
    """

    members: int
    others: int
    resolvable_fpr: float | None
    area: float
    area_interval: Interval
    balanced_accuracy: float
    caught: tuple[Caught, ...]
    worst: Mapping[str, Group]
    curve: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: keys of `precision` become text, and each rate has its value."""
        record = asdict(self)
        for row, caught in zip(record["caught"], self.caught, strict=True):
            if caught.rate is not None:
                row["rate"]["value"] = caught.rate.value
            row["precision"] = {str(prior): value for prior, value in row["precision"].items()}
        return record


def summarise(
    scores: np.ndarray,
    members: np.ndarray,
    epsilon: float,
    delta: float,
    groups: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int = 0,
    fewest: int = 20,
) -> Summary:
    """Describe scores, float [N], of records of which `members`, bool [N], were trained on.

    Args:
        epsilon, delta: the guarantee; an infinite epsilon allows everything.
        groups: kind ("class", "client") -> the name or number of each record's group, [N]. Non-members
            without one have the name "" and are held against the members of every group.
        seed: of the halves for balanced accuracy.
        fewest: members and non-members of a group, each, below which it is not looked at.

    Raises:
        ValueError: shapes do not fit, or there are not two records of each kind.
    """
    scores, members = np.asarray(scores, dtype=np.float64), np.asarray(members, dtype=bool)
    if scores.shape != members.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape}, members {members.shape}: must be [N] both")
    inside, outside = scores[members], scores[~members]
    if min(len(inside), len(outside)) < 2:
        raise ValueError(f"{len(inside)} members, {len(outside)} others: needs two of each at least")
    value, interval = area(inside, outside)
    caught = tuple(_caught(inside, outside, fpr, epsilon, delta) for fpr in FALSE_ALARMS)
    told = [fpr for fpr in FALSE_ALARMS if resolvable(len(outside), fpr)]
    worst = {
        kind: found
        for kind, names in (groups or {}).items()
        if (found := _worst(scores, members, np.asarray(names), fewest)) is not None
    }
    return Summary(
        members=len(inside),
        others=len(outside),
        resolvable_fpr=min(told, default=None),
        area=value,
        area_interval=interval,
        balanced_accuracy=_held_out_accuracy(inside, outside, seed),
        caught=caught,
        worst=worst,
        curve=_thinned(Roc.of(inside, outside)),
    )


def _caught(inside: np.ndarray, outside: np.ndarray, fpr: float, epsilon: float, delta: float) -> Caught:
    rate = catch_rate(inside, outside, fpr)
    curve = Roc.of(inside, outside)
    # What the threshold really lets through, which ties can make much less; where it is none, fpr itself.
    real = float(curve.fpr[curve.at(fpr)]) or fpr
    told = {prior: None if rate is None else precision(rate.value, real, prior) for prior in PRIORS}
    return Caught(fpr, rate, tpr_ceiling(epsilon, delta, fpr), told)


def _held_out_accuracy(inside: np.ndarray, outside: np.ndarray, seed: int) -> float:
    rng = np.random.default_rng(seed)
    chosen, judged = np.array_split(rng.permutation(inside), 2)
    chosen_out, judged_out = np.array_split(rng.permutation(outside), 2)
    curve = Roc.of(chosen, chosen_out)
    threshold = curve.thresholds[curve.best()]
    return float(((judged >= threshold).mean() + (judged_out < threshold).mean()) / 2)


def _worst(scores: np.ndarray, members: np.ndarray, names: np.ndarray, fewest: int) -> Group | None:
    found = []
    nameless = names.astype(str) == ""
    for name in np.unique(names[~nameless]):
        own = names == name
        inside, outside = scores[own & members], scores[(own | nameless) & ~members]
        if min(len(inside), len(outside)) >= fewest:
            value, interval = area(inside, outside)
            found.append(Group(str(name), len(inside), len(outside), value, interval))
    return max(found, key=lambda group: group.area, default=None)


def _thinned(curve: Roc, most: int = 200) -> tuple[tuple[float, float], ...]:
    """Points of the curve that are about evenly spaced on a logarithmic axis as well as on a plain one."""
    fpr, tpr = curve.fpr, curve.tpr
    wanted = np.concatenate([np.linspace(0, 1, most // 2), np.logspace(-4, 0, most // 2)])
    places = np.unique(np.concatenate([[0, len(fpr) - 1], np.searchsorted(fpr, wanted, side="right") - 1]))
    return tuple((float(fpr[place]), float(tpr[place])) for place in places)
