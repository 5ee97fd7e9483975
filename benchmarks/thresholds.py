"""How much of PneumoniaMNIST's balanced accuracy is the threshold between its two classes.

    python benchmarks/thresholds.py

Runs the rows of `frontier.py` that are about PneumoniaMNIST under preset `accuracy`, and scores each global
model on the test set twice: at the threshold that the model has, and at the one that would have been best
there. The second is hindsight: no run can have it, and nothing is chosen by it. It tells a model that ranks
records badly from one that draws its line elsewhere. Kept in `benchmarks/results/thresholds.json`; a run that
is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from frontier import rows  # noqa: E402  (scripts beside this one)
from measure import RESULTS, hardware, measure_seeds, versions, write_result  # noqa: E402

DATASET = "pneumonia"
ROWS = ("pneumonia_accuracy_4_local", "pneumonia_accuracy_4_distributed", "pneumonia_inf")


def operating_points(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Balanced accuracy at threshold 0 and at the best of all, each with its sensitivity and specificity.

    Args:
        scores: [N], higher means class 1; a record is called class 1 above the threshold.
        labels: [N], 0 or 1; both occur.
    """
    ones, zeros = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    places = np.concatenate([[0.0], np.unique(scores)])
    sensitivity = 1 - np.searchsorted(ones, places, side="right") / len(ones)
    specificity = np.searchsorted(zeros, places, side="right") / len(zeros)
    balanced = (sensitivity + specificity) / 2
    best = int(balanced.argmax())
    return {
        "balanced_accuracy": float(balanced[0]),
        "sensitivity": float(sensitivity[0]),
        "specificity": float(specificity[0]),
        "best_balanced_accuracy": float(balanced[best]),
        "best_threshold": float(places[best]),
        "best_sensitivity": float(sensitivity[best]),
        "best_specificity": float(specificity[best]),
    }


def measured(arguments: Sequence[str], seed: int) -> dict[str, Any]:
    """Train once, and score the global model on the test set."""
    import mosaic_secure
    from mosaic_secure.data.benchmarks import locate, read_benchmark

    raw = read_benchmark(DATASET, locate(DATASET, None, None, download=False), train=False)
    with tempfile.TemporaryDirectory(prefix="mosaic-thresholds-") as scratch:
        done = measure_seeds(arguments, [seed], Path(scratch), None)[0]
        if done["status"]:
            raise SystemExit(f"seed {seed}: the run ended with status {done['status']}")
        model = mosaic_secure.load(Path(scratch) / f"run-{seed}")
    found = model.predict_proba(np.asarray(raw.images, dtype=np.float32) / np.float32(raw.scale))
    odds = np.log(np.maximum(found.astype(np.float64), 1e-30))
    return {"seed": seed, **operating_points(odds[:, 1] - odds[:, 0], np.asarray(raw.labels))}


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing and print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    path = args.results / "thresholds.json"
    command = "python benchmarks/thresholds.py"
    record = {"schema_version": 1, "name": "thresholds", "command": command, "runs": {}}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    arguments = {row.name: row.arguments for row in rows()}
    for seed in (int(seed) for seed in args.seeds.split(",")):
        for name in ROWS:
            runs = record["runs"].setdefault(name, [])
            if seed in {run["seed"] for run in runs}:
                continue
            runs.append(measured(arguments[name], seed))
            date = datetime.now(UTC).date().isoformat()
            record |= {"date": date, "hardware": hardware(), "versions": versions()}
            write_result(path, record)
    print("\n".join(table(record["runs"])))
    return 0


def table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown, percent, means over the seeds."""
    names = ("balanced_accuracy", "sensitivity", "specificity", "best_balanced_accuracy")
    lines = ["| row | seeds | balanced | sensitivity | specificity | balanced, best threshold in hindsight |"]
    lines.append("|" + " --- |" * 6)
    for row, found in runs.items():
        means = (f"{100 * statistics.fmean(run[name] for run in found):.2f}" for name in names)
        lines.append(f"| {row} | {len(found)} | {' | '.join(means)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
