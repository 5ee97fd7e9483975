"""One point of a curve: a method at one epsilon, over seeds, with all that was seen of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosaic_secure.report.comparison_table import Row, mean_interval
from mosaic_secure.report.curve.audits import FAIL, Attacked, Audited
from mosaic_secure.report.curve.choice import Candidate
from mosaic_secure.report.curve.scores import RunScores

__all__ = ["Mean", "Point", "mean_of"]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds in [0, 1], and its 95 % interval cut to [0, 1]; None for one seed."""

    value: float
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"mean": self.value, "ci95": None if self.interval is None else list(self.interval)}


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and t interval of at least one share."""
    mean, low, high = mean_interval(list(values))
    return Mean(mean, None if low is None or high is None else (max(0.0, low), min(1.0, high)))


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method at one epsilon, over seeds.

    Attributes:
        row: accuracies and what was spent.
        ceiling: the most that any attack catches at 1 % false alarms, by the guarantee of what one run spent.
        exposed: the same for whoever saw all that the sweep releases of these records; None on public data,
            where nobody's privacy is at stake.
        runs: seed -> id of its run.
        scores, audits: seed -> what was seen of its run; empty where nothing was.
        statement: the guarantee, as privacy.json of one of the runs has it; the same for every seed.
    """

    row: Row
    ceiling: float
    exposed: float | None = None
    runs: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, RunScores] = field(default_factory=dict)
    audits: Mapping[int, Audited] = field(default_factory=dict)
    statement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mechanisms(self) -> Sequence[Mapping[str, Any]]:
        """The releases of one client."""
        return self.statement.get("mechanisms", ())

    @property
    def epsilon(self) -> float:
        """What was asked for."""
        return self.row.epsilon_target

    @property
    def accuracy(self) -> Mean | None:
        """Over seeds; None where no run reports one."""
        return mean_of([value for _, value in sorted(self.row.by_seed.items())]) if self.row.by_seed else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean accuracy."""
        return None if self.accuracy is None else self.accuracy.interval

    @property
    def ece(self) -> Mean | None:
        """Expected calibration error over seeds."""
        return mean_of([found.ece for found in self.scores.values()]) if self.scores else None

    @property
    def by_class(self) -> dict[str, Mean]:
        """Share recognised of the test records of each class, over seeds."""
        seen: dict[str, list[float]] = {}
        for found in self.scores.values():
            for name, share in found.by_class.items():
                if share is not None:
                    seen.setdefault(name, []).append(share)
        return {name: mean_of(shares) for name, shares in seen.items()}

    @property
    def by_client(self) -> dict[int, Mapping[str, float]]:
        """Seed -> client -> accuracy on records like its own; another seed deals other records."""
        return {seed: found.by_client for seed, found in sorted(self.scores.items()) if found.by_client}

    @property
    def caught(self) -> dict[str, Attacked]:
        """Attack -> share of members caught at 1 % false alarms, in the mean over the audited seeds.

        The interval is over seeds, and never narrower than that of any of the audits.
        """
        found: dict[str, Attacked] = {}
        every = list(self.audits.values())
        for name in dict.fromkeys(name for audit in every for name in audit.attacks):
            rates = [audit.attacks[name] for audit in every if name in audit.attacks]
            mean = mean_of([rate.rate for rate in rates])
            low, high = mean.interval or (1.0, 0.0)
            low, high = min(low, *(rate.low for rate in rates)), max(high, *(rate.high for rate in rates))
            found[name] = Attacked(mean.value, low, high)
        return found

    @property
    def strongest(self) -> tuple[str, Attacked] | None:
        """The attack that catches most in the mean; None without an audit that can tell."""
        return max(self.caught.items(), key=lambda pair: pair[1].rate, default=None)

    @property
    def lower_bounds(self) -> dict[int, tuple[float, float]]:
        """Seed -> (epsilon shown at least, the most that could have been shown), where canaries were used."""
        return {
            seed: (audit.lower_bound, audit.provable or 0.0)
            for seed, audit in sorted(self.audits.items())
            if audit.lower_bound is not None
        }

    @property
    def refuted(self) -> bool:
        """Whether an audit refutes what the point promises; a run without noise promises nothing."""
        return self.promises and any(audit.verdict == FAIL for audit in self.audits.values())

    @property
    def candidate(self) -> Candidate:
        """The point as a choice sees it."""
        caught, accuracy = self.strongest, self.accuracy
        guaranteed = max(self.ceiling, self.exposed or 0.0)
        return Candidate(
            self.epsilon,
            None if accuracy is None else accuracy.value,
            None if self.interval is None else self.interval[0],
            guaranteed if caught is None else max(found.high for found in self.caught.values()),
            guaranteed,
            audited=caught is not None,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        strongest, bounds = self.strongest, self.lower_bounds
        return {
            "epsilon": self.epsilon,
            "accuracy_mean": self.row.accuracy,
            "accuracy_ci95": None if self.interval is None else list(self.interval),
            "attack_tpr_at_fpr_0.01": None if strongest is None else strongest[1].rate,
            "tpr_ceiling_at_fpr_0.01": self.ceiling,
            "tpr_held_against_max_tpr": self.candidate.tpr,
            "seeds": len(self.row.seeds),
            "epsilon_lower_bound": max((bound for bound, _ in bounds.values()), default=None),
            "ece_mean": None if self.ece is None else self.ece.value,
            "epsilon_spent": self.row.epsilon_spent,
            "delta": self.row.delta,
            "seconds": self.row.seconds,
            "runs": {str(seed): run for seed, run in sorted(self.runs.items())},
            "accuracy_by_seed": {str(seed): value for seed, value in sorted(self.row.by_seed.items())},
            "accuracy_by_class": {name: mean.to_dict() for name, mean in self.by_class.items()},
            "accuracy_by_client": {str(seed): dict(found) for seed, found in self.by_client.items()},
            "attacks": {name: vars(found) for name, found in self.caught.items()},
            "epsilon_lower_bound_by_seed": {str(seed): bound for seed, (bound, _) in bounds.items()},
            "audits": {str(seed): audit.path for seed, audit in sorted(self.audits.items())},
        }

    @property
    def promises(self) -> bool:
        """Whether its epsilon is finite."""
        return math.isfinite(self.epsilon)
