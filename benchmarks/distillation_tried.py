"""Try settings of the distillation on releases of whole runs, and write a table.

A run of `mosaic-secure train` is made for each seed and each trust from training records alone: a part of
them, held out, stands where its test part would be. What clients released is then distilled anew for each
row, so rows differ in nothing else. No test set is read.

    python benchmarks/distillation_tried.py NAME --config cifar10_subset --set preset=synthetic --honest 4 \\
        --vary distill.learning_rate=2e-3,5e-4

Rows are those of `bakeoff.py`; their settings are of `distill` or `gate`. For data sets in one .npz file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bakeoff import Records, keep, settings, variants  # noqa: E402  (scripts beside this one)
from measure import RESULTS  # noqa: E402

from mosaic_secure.config import RunConfig, load_config  # noqa: E402

SCORES = ("experts/prototype", "teacher", "global")
SECTIONS = ("distill.", "gate.")


def lay_out(records: Records, dataset: str, root: Path) -> None:
    """Write the file of `dataset` below `root`, with the held-out records as its test part."""
    arrays = {}
    for part, images, labels in (
        ("train", records.images, records.labels),
        ("test", records.score_images, records.score_labels),
    ):
        pixels = np.rint(images * 255).astype(np.uint8)
        arrays[f"{part}_images"] = np.moveaxis(pixels, 1, -1) if pixels.shape[1] > 1 else pixels[:, 0]
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    name = {"cifar10_subset": "cifar10_subset.npz", "pneumonia": "pneumoniamnist.npz"}[dataset]
    np.savez(root / name, **arrays)


def distilled(config: RunConfig, rows: Sequence[RunConfig], scratch: Path) -> list[dict[str, float]]:
    """Scores of a run of `config`, assembled once for each of `rows` from the same releases."""
    from mosaic_secure.engine.local import train
    from mosaic_secure.server import run as leading
    from mosaic_secure.server.experts import Memory

    found: list[dict[str, float]] = []
    assemble = leading.assemble

    def repeatedly(plan: Any, releases: Any, parts: Any, device: str, test: Any, *_: Any, **__: Any) -> Any:
        memory, parts = Memory(), replace(parts, fresh_student=False)
        for row in rows:
            other = replace(plan, config=row)
            made = assemble(other, releases, parts, device, test, memory=memory)
            found.append({name: made.scores[name] for name in SCORES})
        return made

    with mock.patch.object(leading, "assemble", repeatedly):
        train(config, out=scratch / "run", ledger_dir=scratch / "ledgers")
    return found


def table(record: dict[str, Any]) -> str:
    """A result as a table in Markdown, accuracies in percent."""
    lines = ["| settings | trust | prototype expert | teacher | global model | global less teacher |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in record["rows"]:
        shown = " ".join(f"{name}={value}" for name, value in row["settings"].items()) or "as configured"
        for cell in record["cells"]:
            expert, teacher, model = ([100 * run[name] for run in row["runs"][cell]] for name in SCORES)
            gaps = [a - b for a, b in zip(model, teacher, strict=True)]
            means = " | ".join(f"{statistics.mean(values):.2f}" for values in (expert, teacher, model))
            lines.append(f"| {shown} | {cell} | {means} | {statistics.mean(gaps):+.2f} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--config", choices=("cifar10_subset", "pneumonia"), default="cifar10_subset")
    parser.add_argument("--epsilon", default="4")
    parser.add_argument("--trusts", default="local,distributed")
    parser.add_argument("--honest", type=int, default=4)
    parser.add_argument("--seeds", default="0", help="of the runs")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for all rows")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=A,B,...")
    parser.add_argument("--variant", action="append", default=[], metavar='"FIELD=A FIELD=B"')
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    chosen = list(variants(args.vary, args.variant))
    foreign = sorted({name for row in chosen for name in row if not name.startswith(SECTIONS)})
    if foreign:
        parser.error(f"{foreign[0]}: a row's settings are of distill or gate; --set is for all rows")
    records = Records(load_config(args.config), None, 0)
    cells = args.trusts.split(",")
    rows = [{"settings": given, "runs": {cell: [] for cell in cells}} for given in chosen]
    record: dict[str, Any] = {}
    for seed in args.seeds.split(","):
        for cell in cells:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="mosaic-distillation-") as scratch:
                lay_out(records, args.config, Path(scratch))
                given = settings(args, cell, args.epsilon, {"seed": seed, "data.root": scratch})
                config = load_config(args.config, given)
                others = [load_config(args.config, given | row["settings"]) for row in rows]
                found = distilled(config, others, Path(scratch))
            for row, scores in zip(rows, found, strict=True):
                row["runs"][cell].append(scores)
            record = keep("distillation_tried", args, argv, records, cells, rows)
            print(f"seed {seed}, {cell}: {time.perf_counter() - began:.0f} s", flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
