"""What a grid of `curve` costs beside the same runs made one by one with `train`.

    python benchmarks/curve_cost.py          # one seed of epsilons 1, 4, inf on digits: about 5 minutes
    python benchmarks/curve_cost.py --goal   # `curve --epsilons 1,4,inf --seeds 3`, alone

Both sides are measured in one call, one after the other on the same machine: wall clock and processor seconds
of the whole process tree. Kept in `benchmarks/results/curve_cost.json`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions, write_result  # noqa: E402  (a script beside this one)

FILE = RESULTS / "curve_cost.json"
EPSILONS = ("1", "4", "inf")
METHODS = ("mosaic", "central", "local")
GRID = ("curve", "--epsilons", ",".join(EPSILONS))


def timed(arguments: Sequence[str]) -> tuple[float, float, str]:
    """Wall clock and processor seconds of a command, and what it said."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import main; raise SystemExit(main())", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, done.stdout


def places(scratch: Path, name: str) -> list[str]:
    return ["--out", str(scratch / name), "--ledger-dir", str(scratch / "ledgers" / name)]


def against_single_runs(scratch: Path) -> dict[str, Any]:
    """One seed of the grid, and its nine runs by themselves."""
    wall, spent, _ = timed([*GRID, "--seeds", "1", *places(scratch, "grid")])
    singles = []
    for method in METHODS:
        for epsilon in EPSILONS:
            words = ["train", "--method", method, "--epsilon", epsilon]
            alone_wall, alone_spent, _ = timed([*words, *places(scratch, f"{method}-{epsilon}")])
            singles.append(
                {"command": " ".join(words), "wall_seconds": alone_wall, "processor_seconds": alone_spent}
            )
    walls, spends = (sum(row[name] for row in singles) for name in ("wall_seconds", "processor_seconds"))
    return {
        "command": " ".join([*GRID, "--seeds", "1"]),
        "grid": {"wall_seconds": wall, "processor_seconds": spent},
        "single_runs": singles,
        "wall_ratio": wall / walls,
        "processor_ratio": spent / spends,
    }


def goal(scratch: Path) -> dict[str, Any]:
    """Three seeds of the grid: how long, and the curve that came of it."""
    wall, spent, out = timed([*GRID, "--seeds", "3", *places(scratch, "goal"), "--json"])
    found = json.loads(out.rstrip("\n").rsplit("\n", 1)[-1])
    points = [
        {name: point[name] for name in ("epsilon", "accuracy_mean", "accuracy_ci95")}
        for point in found["points"]
    ]
    return {
        "command": " ".join([*GRID, "--seeds", "3"]),
        "wall_seconds": wall,
        "processor_seconds": spent,
        "runs": found["runs_ended"],
        "points": points,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one of the two, and add it to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goal", action="store_true", help="the whole grid of three seeds instead")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mosaic-curve-") as scratch:
        measured = goal(Path(scratch)) if options.goal else against_single_runs(Path(scratch))
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"schema_version": 1}
    date = datetime.now(UTC).date().isoformat()
    kept["goal" if options.goal else "ratio"] = {
        **measured,
        "date": date,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_result(FILE, kept)
    print(json.dumps({name: value for name, value in measured.items() if name != "single_runs"}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
