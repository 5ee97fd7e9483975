"""A privacy-utility curve: points over epsilon with what was seen at each, and its files for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.statistics import tpr_ceiling
from mosaic_secure.report.comparison import Outcome
from mosaic_secure.report.comparison_request import REFERENCE, Cell
from mosaic_secure.report.comparison_table import Row, summarise
from mosaic_secure.report.curve_choice import Candidate, Choice, choose
from mosaic_secure.report.curve_cost import Looking
from mosaic_secure.report.curve_request import Wanted
from mosaic_secure.runs.encoding import json_document, jsonable
from privacy.storage import write_durably

__all__ = ["FALSE_ALARMS", "FROZEN", "Curve", "Point", "gather", "write_data"]

FROZEN = "sweep.json"
FALSE_ALARMS = 0.01
"""The rate of false alarms at which a curve tells what attacks catch."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method at one epsilon, over seeds.

    Attributes:
        row: accuracies and what was spent. low, high: its interval, cut to [0, 1]; None for one seed.
        ceiling: the most that any attack catches at `FALSE_ALARMS`, by the guarantee of what was spent.
    """

    row: Row
    ceiling: float

    @property
    def epsilon(self) -> float:
        """What was asked for."""
        return self.row.epsilon_target

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean accuracy, 95 %, over seeds, cut to what an accuracy can be."""
        if self.row.low is None or self.row.high is None:
            return None
        return max(0.0, self.row.low), min(1.0, self.row.high)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "epsilon": self.epsilon,
            "accuracy_mean": self.row.accuracy,
            "accuracy_ci95": None if self.interval is None else list(self.interval),
            "attack_tpr_at_fpr_0.01": None,
            "tpr_ceiling_at_fpr_0.01": self.ceiling,
            "seeds": len(self.row.seeds),
            "accuracy_by_seed": {str(seed): value for seed, value in sorted(self.row.by_seed.items())},
            "epsilon_spent": self.row.epsilon_spent,
            "delta": self.row.delta,
            "seconds": self.row.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Curve:
    """All that a sweep has found so far.

    Attributes:
        title: data, clients and how records are dealt.
        points: of Mosaic, by epsilon; an infinite one is the ceiling without noise. baselines: by method.
        failed: runs that have not ended, with the reason. planned: how many runs there are in all.
        choice: None where nothing was asked. looking: what the sweep costs.
    """

    title: str
    points: tuple[Point, ...]
    baselines: Mapping[str, tuple[Point, ...]]
    failed: tuple[Mapping[str, str], ...]
    ended: int
    planned: int
    choice: Choice | None
    wanted: Wanted
    looking: Looking
    public: bool

    def to_dict(self) -> dict[str, Any]:
        """For curve.json and ``--json``."""
        return jsonable(
            {
                "title": self.title,
                "points": [point.to_dict() for point in self.points],
                "baselines": {
                    name: [point.to_dict() for point in points] for name, points in self.baselines.items()
                },
                "choice": None if self.choice is None else vars(self.choice),
                "wanted": vars(self.wanted),
                "looking": self.looking.to_dict(),
                "failed": [dict(row) for row in self.failed],
                "runs_ended": self.ended,
                "runs_planned": self.planned,
                "public": self.public,
            }
        )


def gather(cells: Sequence[Cell], outcomes: Sequence[Outcome], wanted: Wanted, looking: Looking) -> Curve:
    """The curve of all outcomes so far.

    Args:
        cells: all runs of the sweep. wanted: by what to choose. looking: what the sweep costs.
    """
    table = summarise(cells, outcomes)
    points = sorted((_point(row) for row in table.rows), key=lambda point: point.epsilon)
    own = tuple(point for point in points if point.row.method == REFERENCE)
    methods = dict.fromkeys(cell.method for cell in cells if cell.method != REFERENCE)
    return Curve(
        title=table.title,
        points=own,
        baselines={name: tuple(p for p in points if p.row.method == name) for name in methods},
        failed=table.failed,
        ended=sum(outcome.measured is not None for outcome in outcomes),
        planned=len(cells),
        choice=choose([_candidate(point) for point in own], wanted) if wanted.anything else None,
        wanted=wanted,
        looking=looking,
        public=cells[0].config.is_public,
    )


def write_data(folder: Path, curve: Curve) -> list[Path]:
    """Write curve.json and curve.csv."""
    contents = {"curve.json": json_document(curve.to_dict()), "curve.csv": _csv(curve).encode()}
    for name, data in contents.items():
        write_durably(folder / name, data)
    return [folder / name for name in contents]


def _point(row: Row) -> Point:
    return Point(row=row, ceiling=tpr_ceiling(row.epsilon_spent, row.delta, FALSE_ALARMS))


def _candidate(point: Point) -> Candidate:
    interval = point.interval
    return Candidate(
        point.epsilon, point.row.accuracy, None if interval is None else interval[0], point.ceiling
    )


def _csv(curve: Curve) -> str:
    """A line for each method and epsilon; an infinite epsilon is the word inf."""
    stream = io.StringIO()
    every = [*curve.points, *(point for points in curve.baselines.values() for point in points)]
    lines = [_line(point) for point in every]
    writer = csv.DictWriter(stream, list(lines[0]) if lines else ["method"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _line(point: Point) -> dict[str, Any]:
    record = jsonable(point.to_dict())
    low, high = record.pop("accuracy_ci95") or (None, None)
    by_seed = record.pop("accuracy_by_seed")
    line = {"method": point.row.method, **record, "accuracy_low": low, "accuracy_high": high}
    return line | {"accuracy_by_seed": " ".join(f"{seed}:{value}" for seed, value in by_seed.items())}
