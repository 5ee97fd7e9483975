"""Which epsilon of a curve to take: a rule that is fixed before the runs, and its reason in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_secure.report.curve.request import Wanted

__all__ = ["Candidate", "Choice", "choose"]


@dataclass(frozen=True)
class Candidate:
    """One epsilon of the curve, as far as a choice asks.

    Attributes:
        accuracy, low: mean over seeds and lower end of its 95 % interval, in [0, 1]; None where unknown.
        tpr: what is held against `max_tpr`: upper end of what the audits' attacks caught at 1 % false alarms,
            or without an audit the ceiling of the guarantee. audited: which of the two.
        guaranteed: that ceiling in any case.
    """

    epsilon: float
    accuracy: float | None
    low: float | None
    tpr: float
    guaranteed: float = 1.0
    audited: bool = False


@dataclass(frozen=True)
class Choice:
    """The epsilon that was chosen, or None, and why."""

    epsilon: float | None
    reason: str


def choose(candidates: Sequence[Candidate], wanted: Wanted) -> Choice:
    """Apply the rule.

    With `min_accuracy` the smallest epsilon whose whole accuracy interval lies there, else the best mean
    accuracy; in both cases of those that `max_epsilon` and `max_tpr` allow. A run without noise is never
    chosen: it promises nothing.
    """
    finite = sorted((c for c in candidates if math.isfinite(c.epsilon)), key=lambda c: c.epsilon)
    allowed = [c for c in finite if _allowed(c, wanted)]
    limits = _limits(wanted)
    if not finite:
        return Choice(None, "No epsilon is chosen: every run of this sweep was made without noise.")
    if not allowed:
        return Choice(None, f"No epsilon of this sweep has {limits}{_nearest(finite, wanted)}.")
    known = [c for c in allowed if c.accuracy is not None]
    if not known:
        return Choice(None, "No epsilon is chosen: no run that is allowed has reported an accuracy.")
    if wanted.min_accuracy is None:
        best = max(known, key=lambda c: (c.accuracy, -c.epsilon))
        return Choice(
            best.epsilon,
            f"Epsilon {best.epsilon:g} has the best mean accuracy, {_percent(best.accuracy)}, of those with "
            f"{limits}{_caught(best, wanted)}.",
        )
    goal = _percent(wanted.min_accuracy)
    meeting = [c for c in known if c.low is not None and c.low >= wanted.min_accuracy]
    among = f" with {limits}" if limits else ""
    if not meeting:
        best = max(known, key=lambda c: c.low if c.low is not None else -1.0)
        reached = "no interval" if best.low is None else f"an interval from {_at_least(best.low)}"
        return Choice(
            None,
            f"No epsilon of this sweep{among} has an accuracy interval that lies at {goal} or above; epsilon "
            f"{best.epsilon:g} comes nearest, with {reached} and a mean of {_percent(best.accuracy)}.",
        )
    first = meeting[0]
    return Choice(
        first.epsilon,
        f"Epsilon {first.epsilon:g} is the smallest of this sweep{among} whose whole 95 % accuracy interval, "
        f"from {_at_least(first.low)}, lies at {goal} or above{_caught(first, wanted)}.",
    )


def _allowed(candidate: Candidate, wanted: Wanted) -> bool:
    small = wanted.max_epsilon is None or candidate.epsilon <= wanted.max_epsilon
    return small and (wanted.max_tpr is None or candidate.tpr <= wanted.max_tpr)


def _limits(wanted: Wanted) -> str:
    parts = [] if wanted.max_epsilon is None else [f"epsilon at most {wanted.max_epsilon:g}"]
    if wanted.max_tpr is not None:
        parts.append(f"at most {_percent(wanted.max_tpr)} of members caught at 1 % false alarms")
    return " and ".join(parts)


def _nearest(finite: Sequence[Candidate], wanted: Wanted) -> str:
    if wanted.max_tpr is None:
        return f"; the smallest is {finite[0].epsilon:g}"
    least = min(finite, key=lambda c: c.tpr)
    return f"; the least is {_percent(least.tpr)} at epsilon {least.epsilon:g} ({_kind(least)})"


def _caught(candidate: Candidate, wanted: Wanted) -> str:
    if wanted.max_tpr is None:
        return ""
    if not candidate.audited:
        return f" (up to {_percent(candidate.tpr)} caught: {_kind(candidate)})"
    rest = "limits nothing" if candidate.guaranteed >= 1 else f"allows {_percent(candidate.guaranteed)}"
    return f" (up to {_percent(candidate.tpr)} caught: {_kind(candidate)}; the guarantee itself {rest})"


def _kind(candidate: Candidate) -> str:
    return (
        "upper end of the audits' strongest attack" if candidate.audited else "the ceiling of the guarantee"
    )


def _at_least(share: float | None) -> str:
    """Rounded down: what is written must not reach more than was reached."""
    return f"{math.floor(1000 * (share or 0.0)) / 10:.3g} %"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
