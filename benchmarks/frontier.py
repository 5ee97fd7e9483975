"""Run the rows of the privacy-utility frontier and keep every run; what is there is not run again.

    python benchmarks/frontier.py                      # all rows that are missing
    python benchmarks/frontier.py --only fashion_mnist # rows whose name holds this text
    python benchmarks/frontier.py --list               # what there is, what is missing

`frontier_tables.py` writes the results as Markdown.

A row is a `mosaic-secure train` command; its runs (one a seed) lie in `benchmarks/results/frontier/ROW.json`
with hardware, versions and commit of each.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, measure_seeds, versions, write_result  # noqa: E402  (a script beside this one)

FOLDER = RESULTS / "frontier"
SCORES = (
    "accuracy",
    "teacher_accuracy",
    "fresh_student_accuracy",
    "balanced_accuracy",
    "auc",
    "epsilon",
    "ablation",
)
"""What is kept of a run's result, where it has it."""


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        seeds: in the order in which they are run.
        goal: what its score should reach, in percent.
        of: name of the score that the goal is about.
        against: name of the row that this one is held against, seed by seed.
    """

    name: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    goal: float | None = None
    of: str = "accuracy"
    against: str | None = None


GOALS = {
    "digits_accuracy_4": (92.0, 94.0),
    "mnist_accuracy_1": (97.0, 97.8),
    "mnist_accuracy_3": (98.0, 98.5),
    "fashion_mnist_accuracy_1": (86.0, 88.0),
    "fashion_mnist_accuracy_4": (88.5, 90.0),
    "mnist_synthetic_4": (93.0, 95.0),
    "fashion_mnist_synthetic_4": (76.0, 80.0),
}
"""Percent, under local and under distributed trust; of preset synthetic for the fresh CNN."""


def rows() -> Iterator[Row]:
    """The goals first, each dataset's cheap rows before its dear ones; then skew and number of clients."""
    honest = {"digits": 3, "mnist": 8, "fashion_mnist": 8, "pneumonia": 3, "cifar10_subset": 3}
    epsilons = {
        "digits": ("4",),
        "mnist": ("1", "3"),
        "fashion_mnist": ("1", "4"),
        "pneumonia": ("4",),
        "cifar10_subset": ("4",),
    }
    for dataset, asked in epsilons.items():
        for preset in ("accuracy", "synthetic"):
            wanted = asked if preset == "accuracy" or dataset != "mnist" else (*asked, "4")
            for epsilon in wanted:
                yield from _trusts(dataset, preset, epsilon, honest[dataset])
        if dataset in ("pneumonia", "cifar10_subset"):
            plain = ("train", "--config", dataset, "--epsilon", "inf")
            yield Row(f"{dataset}_inf", plain)
    fashion = ("train", "--config", "fashion_mnist", "--epsilon", "4")
    for alpha in ("0.01", "1"):
        skewed = (*fashion, "--alpha", alpha)
        yield Row(f"fashion_mnist_4_local_alpha{alpha}", skewed, against="fashion_mnist_accuracy_4_local")
    even = (*fashion, "--partition", "iid")
    yield Row("fashion_mnist_4_local_iid", even, against="fashion_mnist_accuracy_4_local")
    for clients in (50, 200):
        more = ("--clients", str(clients), "--trust", "distributed")
        held = ("--set", f"privacy.honest_clients={clients * 8 // 10}")
        name = f"fashion_mnist_4_distributed_{clients}clients"
        yield Row(name, (*fashion, *more, *held), against="fashion_mnist_accuracy_4_distributed")
    yield Row("fashion_mnist_inf", ("train", "--config", "fashion_mnist", "--epsilon", "inf"), (0,))
    for dataset, seeds in (("digits", (0, 1, 2)), ("fashion_mnist", (0,))):
        for epsilon in ("1", "4", "inf"):
            command = ("train", "--config", dataset, "--epsilon", epsilon, "--ablate")
            yield Row(f"ablation_{dataset}_{epsilon}", command, seeds)


def _trusts(dataset: str, preset: str, epsilon: str, honest: int) -> Iterator[Row]:
    command = ("train", "--config", dataset, "--epsilon", epsilon)
    if preset != "accuracy":
        command += ("--preset", preset)
    name = f"{dataset}_{preset}_{epsilon}"
    local, together = GOALS.get(name, (None, None))
    of = "fresh_student_accuracy" if preset == "synthetic" else "accuracy"
    yield Row(f"{name}_local", command, goal=local, of=of)
    shared = ("--trust", "distributed", "--set", f"privacy.honest_clients={honest}")
    yield Row(f"{name}_distributed", (*command, *shared), goal=together, of=of)


def kept(row: Row) -> dict[str, Any]:
    """The row's record, as it stands."""
    path = FOLDER / f"{row.name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"schema_version": 1, "name": row.name, "command": None, "runs": []}


def missing(row: Row) -> list[int]:
    """Seeds without a run that ended well under the command as it is now."""
    found = kept(row)
    if found["command"] != shlex.join(["mosaic-secure", *row.arguments]):
        return list(row.seeds)
    return [s for s in row.seeds if s not in {r["seed"] for r in found["runs"] if r["status"] == 0}]


def run(row: Row, seed: int, timeout: float | None) -> dict[str, Any]:
    """One run, added to the row's file."""
    with tempfile.TemporaryDirectory(prefix="mosaic-frontier-") as scratch:
        done = measure_seeds(row.arguments, [seed], Path(scratch), timeout)[0]
    result = done.pop("result")
    done |= {name: result.get(name) for name in SCORES if result.get(name) is not None}
    done |= {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(), "versions": versions()}
    # Read only now: another seed of the row may have ended meanwhile.
    command, record = shlex.join(["mosaic-secure", *row.arguments]), kept(row)
    if record["command"] != command:
        record = {**record, "command": command, "runs": []}
    others = [r for r in record["runs"] if r["seed"] != seed]
    record["runs"] = sorted([*others, done], key=lambda r: r["seed"])
    write_result(FOLDER / f"{row.name}.json", record)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; 0 if all of it ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this text")
    parser.add_argument("--seeds", default="0,1,2", help="of these seeds only, comma-separated")
    parser.add_argument("--timeout", type=float, default=14400, help="seconds after which a run is killed")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(argv)
    chosen = [r for r in rows() if not options.only or any(text in r.name for text in options.only)]
    wanted = {int(seed) for seed in options.seeds.split(",")}
    if options.list:
        for row in chosen:
            print(f"{row.name:45} missing seeds: {missing(row) or 'none'}")
        return 0
    failed = 0
    for seed in sorted(wanted):
        for row in chosen:
            if seed in missing(row):
                print(f"{row.name} seed {seed}: {shlex.join(row.arguments)}", flush=True)
                failed += run(row, seed, options.timeout)["status"] != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
