"""How long the rest of a grid of runs will take, judged by those that have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mosaic_secure.report.comparison import Outcome
from mosaic_secure.report.comparison_request import Cell

__all__ = ["in_words", "seconds_left"]


def seconds_left(outcomes: Sequence[Outcome], rest: Sequence[Cell]) -> float | None:
    """Seconds for the runs `rest`: each as long as those of its method, or of all, took in the mean.

    None where no run has ended yet.
    """
    took: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.measured is not None:
            took.setdefault(outcome.cell.method, []).append(outcome.measured.seconds)
    every = [seconds for known in took.values() for seconds in known]
    if not every:
        return None
    return math.fsum(_mean(took.get(cell.method, every)) for cell in rest)


def in_words(seconds: float) -> str:
    """A length of time to about one digit more than it is known: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
