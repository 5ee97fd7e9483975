"""What a comparison found: rows with intervals over seeds, paired differences, and the files of both."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mosaic_secure.config import RunConfig
from mosaic_secure.report.comparison import Measured, Outcome
from mosaic_secure.report.comparison_plot import draw_comparison
from mosaic_secure.report.comparison_request import REFERENCE, Cell
from mosaic_secure.runs.encoding import json_document, jsonable
from privacy.storage import write_durably

__all__ = ["Row", "Table", "against_reference", "mean_interval", "summarise", "write_files"]

CONFIDENCE = 0.95
PICTURE = "comparison.png"
_FOUR_PLACES = ("accuracy", "low", "high", "balanced_accuracy", "auc", "difference")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one budget, over seeds. Scores are in [0, 1].

    Attributes:
        epsilon_target: what was asked for. epsilon_spent: the largest over the runs of what was done.
        accuracy: mean over seeds; None where no run could be measured.
        low, high: ends of the interval of the mean; None for fewer than two measured runs.
        balanced_accuracy, auc: means over the runs that recorded them; None where none did.
        seeds: of the runs that ended.
        seconds: mean over the runs.
        by_seed: accuracy of each measured run.
    """

    method: str
    preset: str | None
    trust: str
    alpha: float | None
    epsilon_target: float
    epsilon_spent: float
    delta: float
    accuracy: float | None
    low: float | None
    high: float | None
    balanced_accuracy: float | None = None
    auc: float | None = None
    seeds: tuple[int, ...]
    teacher_accuracy: float | None
    seconds: float
    score: str
    by_seed: Mapping[int, float]

    @property
    def name(self) -> str:
        """The method as a picture labels it, such as ``mosaic:synthetic, distributed``."""
        preset = f":{self.preset}" if self.preset else ""
        return f"{self.method}{preset}" + (f", {self.trust}" if self.method == REFERENCE else "")

    def to_dict(self) -> dict[str, Any]:
        """The columns of the table; seeds as ``"0,1,2"``."""
        record = {name: value for name, value in vars(self).items() if name != "by_seed"}
        return record | {"seeds": ",".join(map(str, self.seeds))}


@dataclass(frozen=True)
class Table:
    """Rows, differences against the reference, failed runs, and what must be said beside them."""

    rows: tuple[Row, ...]
    differences: tuple[dict[str, Any], ...]
    failed: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    title: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "rows": [row.to_dict() for row in self.rows],
            "against_mosaic": list(self.differences),
            "failed": list(self.failed),
            "notes": list(self.notes),
        }


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and its 95 % interval, ``mean ± t s / sqrt(n)`` with Student's t of n - 1 degrees of freedom.

    Fewer than two values have no interval. The ends are not cut off at 0 or 1.
    """
    from scipy.stats import t

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * deviation / math.sqrt(count)
    return mean, mean - half, mean + half


def summarise(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Table:
    """The table of all outcomes so far.

    Args:
        cells: all runs of the comparison, at least one. outcomes: of those that were tried.
    """
    groups: dict[tuple[Any, ...], list[tuple[Cell, Measured]]] = {}
    for outcome in outcomes:
        if outcome.measured is not None:
            groups.setdefault(_key(outcome.cell), []).append((outcome.cell, outcome.measured))
    order = {key: number for number, key in enumerate(dict.fromkeys(map(_key, cells)))}
    rows = [_row(groups[key]) for key in sorted(groups, key=order.__getitem__)]
    rows.sort(key=lambda row: (math.inf if row.alpha is None else row.alpha, row.epsilon_target))
    failed = [{"run": done.cell.slug, "reason": done.recorded} for done in outcomes if done.measured is None]
    reference = next((cell for cell in cells if cell.method == REFERENCE), None)
    differences = () if reference is None else against_reference(rows, reference)
    config = max((cell.config for cell in cells), key=lambda config: config.clients.count)
    title = f"{config.data.dataset}, {config.clients.count} clients, {_dealt(config, cells)}"
    return Table(
        tuple(rows),
        tuple(differences),
        tuple(failed),
        tuple(_notes(cells, outcomes, rows, differences, reference)),
        title,
    )


def against_reference(rows: Sequence[Row], reference: Cell) -> list[dict[str, Any]]:
    """Accuracy of each other row less that of the reference, seed by seed, at the same alpha and epsilon.

    The reference is the first mosaic variant (preset and trust) of the comparison. Central, which has no
    alpha of its own, is held against it at every one. Only seeds that both rows have count; a row without
    any is left out.
    """
    variant = (reference.method, reference.preset, reference.trust)
    bases = [row for row in rows if (row.method, row.preset, row.trust) == variant]
    found = []
    for base, row in product(bases, rows):
        same = row.alpha in (base.alpha, None) and row.epsilon_target == base.epsilon_target
        if base is row or not same:
            continue
        shared = [seed for seed in row.seeds if seed in row.by_seed and seed in base.by_seed]
        if not shared:
            continue
        mean, low, high = mean_interval([row.by_seed[seed] - base.by_seed[seed] for seed in shared])
        found.append(
            {
                "method": row.method,
                "preset": row.preset,
                "trust": row.trust,
                "alpha": base.alpha,
                "epsilon_target": row.epsilon_target,
                "difference": mean,
                "low": low,
                "high": high,
                "seeds": ",".join(map(str, shared)),
            }
        )
    return found


def write_files(folder: Path, table: Table) -> list[Path]:
    """Write table.md, table.csv, table.json, and comparison.png where there is an accuracy to draw."""
    contents = {
        "table.md": _markdown(table).encode(),
        "table.csv": _csv(table).encode(),
        "table.json": json_document(table.to_dict()),
    }
    if any(row.accuracy is not None for row in table.rows):
        contents[PICTURE] = draw_comparison(table.rows, table.title)
    for name, data in contents.items():
        write_durably(folder / name, data)
    return [folder / name for name in contents]


def _key(cell: Cell) -> tuple[Any, ...]:
    return (cell.method, cell.preset, cell.trust, cell.alpha, cell.epsilon)


def _row(runs: Sequence[tuple[Cell, Measured]]) -> Row:
    cell, first = runs[0]
    measures = [measured for _, measured in runs]
    by_seed = {one.seed: measured.accuracy for one, measured in runs if measured.accuracy is not None}
    accuracy, low, high = mean_interval(list(by_seed.values())) if by_seed else (None, None, None)
    return Row(
        method=cell.method,
        preset=cell.preset,
        trust=cell.trust,
        alpha=cell.alpha,
        epsilon_target=cell.epsilon,
        epsilon_spent=max(one.epsilon for one in measures),
        delta=first.delta,
        accuracy=accuracy,
        low=low,
        high=high,
        seeds=tuple(sorted(one.seed for one, _ in runs)),
        balanced_accuracy=_mean(one.balanced_accuracy for one in measures),
        auc=_mean(one.auc for one in measures),
        teacher_accuracy=_mean(one.teacher_accuracy for one in measures),
        seconds=math.fsum(one.seconds for one in measures) / len(measures),
        score=first.score,
        by_seed=by_seed,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_interval(known)[0] if known else None


def _dealt(config: RunConfig, cells: Sequence[Cell]) -> str:
    alphas = sorted({cell.alpha for cell in cells if cell.alpha is not None})
    if alphas:
        return f"Dirichlet({', '.join(f'{alpha:g}' for alpha in alphas)})"
    return "clients given" if config.partition.kind == "given" else config.partition.kind


def _notes(
    cells: Sequence[Cell],
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    differences: Sequence[object],
    reference: Cell | None,
) -> list[str]:
    notes = []
    measured = [row for row in rows if row.by_seed]
    if len(measured) < len(rows):
        notes.append("no accuracy: these data have no public test part, so no run reports one")
    if any(row.low is not None for row in measured):
        notes.append("accuracy is the mean over seeds; low and high are its 95 % t interval across seeds")
    if any(len(row.by_seed) == 2 for row in measured):
        notes.append("an interval from two seeds has one degree of freedom: it is wide, or narrow by chance")
    if any(row.low is None for row in measured):
        notes.append("a row of one seed has no interval")
    if any(row.score == "local mean" for row in rows):
        notes.append("local has no global model: its accuracy is the mean over the clients' own models")
    if differences and reference is not None:
        preset = f":{reference.preset}" if reference.preset else ""
        notes.append(
            f"differences are paired by seed, accuracy less that of {REFERENCE}{preset}, trust "
            f"{reference.trust}, at the same epsilon"
        )
    ended = sum(outcome.measured is not None for outcome in outcomes)
    if ended < len(cells):
        notes.append(f"incomplete: {len(cells) - ended} of {len(cells)} runs have not ended")
    return notes


def _markdown(table: Table) -> str:
    lines = [f"# Comparison: {table.title}", "", *_lines([row.to_dict() for row in table.rows])]
    lines += [f"- {note}" for note in table.notes]
    if table.differences:
        lines += ["", "## Against mosaic", "", *_lines(table.differences)]
    if table.failed:
        lines += ["", "## Failed", "", *_lines(table.failed)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["(no run has ended)", ""]
    names = list(rows[0])
    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    lines += [[_text(name, row[name]) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _text(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if name in _FOUR_PLACES else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _csv(table: Table) -> str:
    names = [name for name in Row.__dataclass_fields__ if name != "by_seed"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(jsonable(row.to_dict()) for row in table.rows)
    return stream.getvalue()
