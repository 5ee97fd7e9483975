"""A privacy-utility curve: points over epsilon, the choice among them, and the files for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attacks.statistics import tpr_ceiling
from mosaic_secure.config import RunConfig, config_hash
from mosaic_secure.report.comparison import RUNS, Outcome, recorded
from mosaic_secure.report.comparison_request import REFERENCE, Cell
from mosaic_secure.report.comparison_table import Row, summarise
from mosaic_secure.report.curve.ablation import Ablation, finished_ablation
from mosaic_secure.report.curve.audits import FAIL, finished_audit
from mosaic_secure.report.curve.choice import Choice, choose
from mosaic_secure.report.curve.cost import FALSE_ALARMS, Looking
from mosaic_secure.report.curve.point import Point
from mosaic_secure.report.curve.published import published
from mosaic_secure.report.curve.request import Wanted
from mosaic_secure.report.curve.scores import scores_of
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document, jsonable

__all__ = ["FROZEN", "RECORD", "Curve", "data_of", "gather"]

FROZEN, RECORD = "sweep.json", "curve.json"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """All that a sweep has found so far.

    Attributes:
        title: data, clients and how records are dealt. config: of its first run of Mosaic.
        points: of Mosaic, by epsilon; an infinite one is the ceiling without noise. baselines: by method.
        failed: runs that have not ended, with the reason. ended, planned: how many runs have, and there are.
        choice: None where nothing was asked. looking: what the sweep costs.
        taken_apart: a further run at the epsilon shown; None if there is none.
    """

    title: str
    config: RunConfig
    points: tuple[Point, ...]
    baselines: Mapping[str, tuple[Point, ...]]
    failed: tuple[Mapping[str, str], ...]
    ended: int
    planned: int
    choice: Choice | None
    wanted: Wanted
    looking: Looking
    notes: tuple[str, ...]
    taken_apart: Ablation | None = None

    @property
    def ablation(self) -> tuple[Mapping[str, Any], ...]:
        """What each part is worth at the epsilon shown, see `server/worth.py`; empty if not measured."""
        return () if self.taken_apart is None else self.taken_apart.rows

    @property
    def shown(self) -> Point | None:
        """The point whose budget is taken apart: the chosen one, else the middle one of those that promise
        something."""
        finite = [point for point in self.points if point.promises] or list(self.points)
        asked = self.choice.epsilon if self.choice is not None else None
        middle = finite[(len(finite) - 1) // 2] if finite else None
        return next((point for point in finite if point.epsilon == asked), middle)

    @property
    def refuted(self) -> tuple[str, ...]:
        """What the audits that failed say, a sentence each."""
        return tuple(
            f"epsilon {point.epsilon:g}, seed {seed}: {audit.sentence}"
            for point in self.points
            for seed, audit in sorted(point.audits.items())
            if point.promises and audit.verdict == FAIL
        )

    @property
    def statement(self) -> Mapping[str, Any]:
        """The guarantee of the point shown, as its privacy.json states it; empty before any run has ended."""
        return {} if self.shown is None else self.shown.statement

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
                "budget": {
                    "epsilon": None if self.shown is None else self.shown.epsilon,
                    "releases": [] if self.shown is None else [dict(row) for row in self.shown.mechanisms],
                },
                "ablation": [dict(row) for row in self.ablation],
                "ablation_run": None if self.taken_apart is None else self.taken_apart.run,
                "refuted": list(self.refuted),
                "failed": [dict(row) for row in self.failed],
                "runs_ended": self.ended,
                "runs_planned": self.planned,
                "public": self.config.is_public,
                "guarantee": {name: self.statement.get(name) for name in _GUARANTEE},
                "published": [vars(one) for one in published(self.config.data.dataset)],
                "config_hash": config_hash(self.config),
                "notes": list(self.notes),
            }
        )


def gather(
    folder: Path,
    cells: Sequence[Cell],
    outcomes: Sequence[Outcome],
    wanted: Wanted,
    looking: Looking,
    failed: Sequence[Mapping[str, str]] = (),
) -> Curve:
    """The curve of all outcomes so far, with what can be read off the sealed runs of Mosaic.

    Args:
        folder: of the sweep. cells: all its runs. wanted: by what to choose. looking: what the sweep costs.
        failed: what else did not work, as run and reason.
    """
    cells = sorted(cells, key=_order)
    outcomes = sorted(outcomes, key=lambda outcome: _order(outcome.cell))
    table = summarise(cells, outcomes)
    ended = [outcome.cell for outcome in outcomes if outcome.measured is not None]
    damaged: list[Mapping[str, str]] = []
    points = sorted(
        (
            _point(folder, row, [cell for cell in ended if _of(row, cell)], looking, damaged)
            for row in table.rows
        ),
        key=lambda point: point.epsilon,
    )
    own = tuple(point for point in points if point.row.method == REFERENCE)
    methods = dict.fromkeys(cell.method for cell in cells if cell.method != REFERENCE)
    found = Curve(
        title=table.title,
        config=cells[0].config,
        points=own,
        baselines={name: tuple(p for p in points if p.row.method == name) for name in methods},
        failed=(*table.failed, *failed, *damaged),
        ended=len(ended),
        planned=len(cells),
        choice=_choice(own, wanted, looking) if wanted.anything else None,
        wanted=wanted,
        looking=looking,
        notes=tuple(note for note in table.notes if not note.startswith("differences")),
    )
    return replace(found, taken_apart=finished_ablation(folder, found.shown))


def data_of(curve: Curve, command: str, when: str) -> dict[str, bytes]:
    """curve.json and curve.csv.

    Args:
        command: what makes the curve again. when: UTC, to the minute.
    """
    record = {**curve.to_dict(), "command": command, "when": when}
    return {RECORD: json_document(record), "curve.csv": _csv(curve).encode()}


def _of(row: Row, cell: Cell) -> bool:
    return (row.method, row.epsilon_target) == (cell.method, cell.epsilon)


def _order(cell: Cell) -> tuple[Any, ...]:
    """Mosaic first, then by name; by epsilon and seed."""
    return cell.method != REFERENCE, cell.method, cell.epsilon, cell.seed


def _choice(points: Sequence[Point], wanted: Wanted, looking: Looking) -> Choice:
    """A refuted epsilon is not chosen, and none where the noise protects nobody."""
    if looking.insecure:
        return Choice(None, "No epsilon is chosen: the noise of these runs follows from the seed.")
    left = [point.candidate for point in points if not point.refuted]
    if all(point.refuted for point in points if point.promises) and any(point.promises for point in points):
        return Choice(None, "No epsilon is chosen: audits refute what the runs promise.")
    return choose(left, wanted)


def _point(
    folder: Path, row: Row, cells: Sequence[Cell], looking: Looking, damaged: list[Mapping[str, str]]
) -> Point:
    """A point with what its sealed runs show; a run that cannot be read is added to `damaged`."""
    ceiling = 1.0 if looking.insecure else tpr_ceiling(row.epsilon_spent, row.delta, FALSE_ALARMS)
    scores, audits, runs = {}, {}, {}
    statement: Mapping[str, Any] = {}
    for cell in cells:
        try:
            runs[cell.seed] = manifest.read(folder / RUNS / cell.slug)["run_id"]
            if row.method != REFERENCE:
                continue
            scores[cell.seed] = scores_of(folder, cell)
            audits[cell.seed] = finished_audit(folder, cell, retrain=False)
            statement = RunDirectory.open(folder / RUNS / cell.slug).read_json("privacy.json")
        except Exception as error:
            damaged.append({"run": cell.slug, "reason": recorded(cell, error)})
    return Point(
        row=row,
        ceiling=ceiling,
        exposed=None if looking.public else looking.ceiling,
        runs=runs,
        scores={seed: found for seed, found in scores.items() if found is not None},
        audits={seed: found for seed, found in audits.items() if found is not None},
        statement=statement,
    )


_GUARANTEE = ("unit", "neighbours", "delta", "trust", "honest_clients", "clients", "randomness")
_LEFT_OUT = (
    "runs",
    "accuracy_by_class",
    "accuracy_by_client",
    "attacks",
    "epsilon_lower_bound_by_seed",
    "audits",
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
    record = {name: value for name, value in jsonable(point.to_dict()).items() if name not in _LEFT_OUT}
    low, high = record.pop("accuracy_ci95") or (None, None)
    by_seed = record.pop("accuracy_by_seed")
    line = {"method": point.row.method, **record, "accuracy_low": low, "accuracy_high": high}
    return line | {"accuracy_by_seed": " ".join(f"{seed}:{value}" for seed, value in by_seed.items())}
