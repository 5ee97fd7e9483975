"""The results of `frontier.py` as Markdown.

    python benchmarks/frontier_tables.py scores --only fashion_mnist_accuracy   # rows whose name holds this
    python benchmarks/frontier_tables.py differences                            # rows held against another
    python benchmarks/frontier_tables.py ablation --only digits                 # what each part is worth

Scores are percent, means over the seeds that ended well; a row without such a run is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from frontier import Row, kept, rows  # noqa: E402  (a script beside this one)

from mosaic_secure.report.comparison_table import mean_interval  # noqa: E402

_NAMES = {
    "accuracy": "accuracy",
    "teacher_accuracy": "teacher",
    "fresh_student_accuracy": "fresh CNN",
    "balanced_accuracy": "balanced",
    "auc": "AUC",
}


def good_runs(row: Row) -> list[dict[str, Any]]:
    """Runs of the row that ended well."""
    return [run for run in kept(row)["runs"] if run["status"] == 0]


def scores(chosen: Sequence[Row]) -> list[list[str]]:
    """Means, the goal beside the score that it is about, and the range of that score over the seeds."""
    lines = [["row", "seeds", "goal", *_NAMES.values(), "range", "epsilon", "minutes"]]
    for row in chosen:
        runs = good_runs(row)
        if not runs:
            continue
        cells = [row.name, str(len(runs))]
        cells.append("-" if row.goal is None else f"{_NAMES[row.of]} {row.goal:.1f}")
        cells += [_mean(runs, name, 100) for name in _NAMES]
        found = [100 * run[row.of] for run in runs if run.get(row.of) is not None]
        cells.append(f"{min(found):.2f} to {max(found):.2f}" if len(found) > 1 else "-")
        lines.append([*cells, _mean(runs, "epsilon", 1), _mean(runs, "wall_seconds", 1 / 60)])
    return lines


def differences(chosen: Sequence[Row]) -> list[list[str]]:
    """Accuracy of a row less that of the row it is held against, at the same seed, in points."""
    every = {row.name: row for row in rows()}
    lines = [["row", "against", "seeds", "accuracy", "difference", "95 % interval"]]
    for row in chosen:
        if row.against is None:
            continue
        base = {run["seed"]: run["accuracy"] for run in good_runs(every[row.against])}
        both = [(run["accuracy"], base[run["seed"]]) for run in good_runs(row) if run["seed"] in base]
        if not both:
            continue
        gaps = [100 * (one - other) for one, other in both]
        mean, low, high = mean_interval(gaps)
        interval = "one seed" if low is None else f"{low:+.2f} to {high:+.2f}"
        accuracy = f"{100 * statistics.fmean(one for one, _ in both):.2f}"
        lines.append([row.name, row.against, str(len(both)), accuracy, f"{mean:+.2f}", interval])
    return lines


def ablation(chosen: Sequence[Row]) -> list[list[str]]:
    """What the global model, and the fresh CNN where it says something, lose without each part."""
    lines = [["row", "seeds", "without", "teacher", "global model", "fresh CNN", "worth, points"]]
    for row in chosen:
        runs = [run for run in good_runs(row) if run.get("ablation")]
        for number, part in enumerate(runs[0]["ablation"] if runs else ()):
            found = [run["ablation"][number] for run in runs]
            cells = [row.name, str(len(runs)), part["without"]]
            cells += [_mean(found, name, 100) for name in ("teacher", "global_model", "fresh_cnn")]
            lines.append([*cells, _mean(found, "worth", 100)])
    return lines


def _mean(runs: Sequence[dict[str, Any]], name: str, scale: float) -> str:
    values = [float(run[name]) for run in runs if run.get(name) is not None]  # "inf" is a string in JSON
    return f"{scale * statistics.fmean(values):.2f}" if values else "-"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    head, *body = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


TABLES = {"scores": scores, "differences": differences, "ablation": ablation}


def main(argv: Sequence[str] | None = None) -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this text")
    options = parser.parse_args(argv)
    chosen = [row for row in rows() if not options.only or any(text in row.name for text in options.only)]
    print(markdown(TABLES[options.table](chosen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
