"""Try settings of the prototype stage on a validation part of the training records, and write a table.

The stage's own mechanisms and learning rules run on cached codes; encryption, which changes no number, is
left out. A part of the training records is held out for scores (a sixth of 60,000; of small sets a fifth,
drawn anew for each seed); no test set is read. With --records fewer records are used and the noise shrinks by
the same factor, so that the ratio of signal to noise is that of the whole set.

    python benchmarks/bakeoff.py whitening --config fashion_mnist --vary prototypes.whitening=0,0.5,0.75,1

Several --vary give every combination; --variant "a.b=1 c.d=2" adds a row of several settings, --variant ""
one without any. A row's settings that begin with "try." are not in the product: see `prototype_stage.Tried`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import prototype_stage  # noqa: E402  (scripts beside this one)
from measure import RESULTS, hardware, versions  # noqa: E402
from prototype_stage import Tried  # noqa: E402

from mosaic_secure.config import RunConfig, load_config  # noqa: E402
from mosaic_secure.plan import RunPlan, build_plan  # noqa: E402
from mosaic_secure.seeds import derive_seed  # noqa: E402

_SECTION = re.compile(r"^(prototypes|privacy|try)\.")  # left out in a table
SMALL = 5000  # records; below it each seed draws a held-out part of its own


class Records:
    """Public training images, split into those that are learnt from and those that score."""

    def __init__(self, config: RunConfig, limit: int | None, seed: int, cache: Path | None = None) -> None:
        from mosaic_secure.data.benchmarks import locate, read_benchmark

        name = config.data.dataset
        raw = read_benchmark(name, locate(name, None, None, download=False), train=True)
        small = len(raw.labels) < SMALL
        order = np.random.default_rng([20, seed if small else 0]).permutation(len(raw.labels))
        held = len(order) // 5 if small else len(order) // 6
        self.total = len(order) if limit else len(order) - held
        learn = order[held:][:limit]
        images = np.asarray(raw.images, dtype=np.float32) / raw.scale  # in [0, 1], as clients have them
        self.images, self.labels = images[learn], np.asarray(raw.labels)[learn].astype(np.int64)
        self.score_images, self.score_labels = images[order[:held]], np.asarray(raw.labels)[order[:held]]
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._cache, self._whose = cache, (name, limit, seed if small else 0, "in [0, 1]")

    def codes(self, plan: RunPlan, tried: Tried) -> tuple[np.ndarray, np.ndarray]:
        """Codes of both parts; the latest are kept for the next row."""
        from mosaic_secure.models.encoders import encode

        part = plan.config.prototypes
        key = (part.encoder, part.dim, part.image_size, part.pixel_weight, plan.config.seed, tried)

        def make() -> tuple[np.ndarray, np.ndarray]:
            if any(tried.encoder):
                return self._tried_codes(plan, tried)
            encoder, both = plan.encoder(), (self.images, self.score_images)
            return self._stored((self._whose, key), lambda: tuple(encode(encoder, images) for images in both))

        return self._keep("codes", key, make)

    def _keep(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """One value a name: that of the latest key."""
        if self._kept.get(name, (None, None))[0] != key:
            self._kept.pop(name, None)
            self._kept[name] = key, make()
        return self._kept[name][1]

    def _stored(self, key: Any, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """The arrays that `make` makes, from a file where there is a cache."""
        if self._cache is None:
            return make()
        path = self._cache / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npz"
        if not path.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            np.savez(path.with_suffix(".part.npz"), *make())
            path.with_suffix(".part.npz").rename(path)
        with np.load(path) as stored:
            return tuple(stored[name] for name in stored.files)

    def _tried_codes(self, plan: RunPlan, tried: Tried) -> tuple[np.ndarray, ...]:
        import encoders_tried
        import torch

        product, shape, seed = plan.encoder(), plan.image_shape, plan.config.seed
        name = tried.features or "scattering"
        module = encoders_tried.features(name, shape, seed)
        of = encoders_tried.mirrored(module) if tried.mirror else module
        both = [torch.from_numpy(images) for images in (self.images, self.score_images)]
        key = (name, seed, tried.mirror != "")

        @torch.no_grad()
        def make() -> tuple[np.ndarray, ...]:
            return tuple(torch.cat([of(part) for part in images.split(512)]).numpy() for images in both)

        def public() -> np.ndarray:
            (rows,) = self._stored(
                ("public", shape, tried.images, key),
                lambda: (encoders_tried.public_features(of, tried.images, shape, seed),),
            )
            return rows

        found = self._keep("features", key, lambda: self._stored((self._whose, key), make))
        mean, matrix = encoders_tried.frame(
            tried.projection or "random",
            module,
            shape,
            plan.config.prototypes.dim,
            derive_seed(seed, "encoder"),
            tried.power,
            lambda: self._keep("public", (tried.images, key), public),
        )
        weight = product.pixel_weight
        out = []
        for images, rows in zip(both, found, strict=True):
            code = torch.nn.functional.normalize((torch.from_numpy(rows) - mean) @ matrix, dim=1)
            if weight:
                pool = encoders_tried.mirrored(product.pool) if tried.mirror == "all" else product.pool
                code = torch.cat([code * (1 - weight) ** 0.5, pool(images) * weight**0.5], 1)
            out.append(code.numpy())
        return tuple(out)


def variants(varied: list[str], single: list[str]) -> Iterator[dict[str, str]]:
    """Settings of each row: of single rows first, so that one of them may be what others are held against."""
    for text in single:
        yield dict(item.split("=", 1) for item in text.split())
    axes = [[(name, v) for v in values.split(",")] for name, values in (t.split("=", 1) for t in varied)]
    if axes or not single:
        yield from (dict(choice) for choice in itertools.product(*axes))


def settings(args: argparse.Namespace, trust: str, epsilon: str, given: dict[str, str]) -> dict[str, str]:
    fields = {"privacy.trust": trust, "privacy.epsilon": epsilon}
    if trust == "distributed":
        fields["privacy.honest_clients"] = str(args.honest)
    return fields | dict(item.split("=", 1) for item in args.set) | given


def table(record: dict[str, Any]) -> str:
    """A result as a table in Markdown."""
    cells = record["cells"]
    lines = ["| settings | " + " | ".join(cells) + " | against the first row, points |"]
    lines.append("| --- |" + " --- |" * (len(cells) + 1))
    for row in record["rows"]:
        items = (f"{_SECTION.sub('', name)}={value}" for name, value in row["settings"].items())
        difference, deviation = row["difference"]["mean"], row["difference"]["std"]
        last = f"{difference:+.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
        accuracies = " | ".join(f"{row[cell]:.4f}" for cell in cells)
        lines.append(f"| {' '.join(items) or 'as configured'} | {accuracies} | {last} |")
    return "\n".join(lines) + "\n"


def compare(rows: list[dict[str, Any]], cells: list[str]) -> None:
    """Means of each row, and its paired difference to the first row: the mean over cells, by noise seed."""
    for row in rows:
        row |= {cell: round(statistics.mean(row["runs"][cell]), 4) for cell in cells}
        pairs = [
            [100 * (a - b) for a, b in zip(row["runs"][cell], rows[0]["runs"][cell], strict=True)]
            for cell in cells
        ]
        found = [statistics.mean(pair) for pair in zip(*pairs, strict=True)]
        deviation = round(statistics.stdev(found), 3) if len(found) > 1 else None
        row["difference"] = {"mean": round(statistics.mean(found), 3), "std": deviation}


def places_left_out(words: list[str]) -> list[str]:
    """A command without the folders of this machine."""
    places = ("--cache", "--results")
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in places and before not in places
    ]


def keep(
    tool: str,
    args: argparse.Namespace,
    argv: list[str] | None,
    records: Records,
    cells: list[str],
    rows: list[dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Write what is known so far to the file of the result, and return it.

    Args:
        tool: name of the script. args, argv: its options, read and as given.
        more: what this tool has to say beside.
    """
    words = shlex.join(places_left_out(sys.argv[1:] if argv is None else argv))
    record = {
        "schema_version": 1,
        "name": args.name,
        "command": f"python benchmarks/{tool}.py {words}",
        "date": datetime.now(UTC).date().isoformat(),
        "records": len(records.labels),
        "scored_on": f"{len(records.score_labels)} held-out training records",
        **more,
        "seeds": [int(seed) for seed in args.seeds.split(",")],
        "hardware": hardware(),
        "versions": versions(),
        "cells": cells,
        "rows": rows,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"bakeoff_{args.name}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + os.linesep, encoding="utf-8")
    return record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--config", default="fashion_mnist")
    parser.add_argument("--epsilons", default="4")
    parser.add_argument("--trusts", default="local,distributed")
    parser.add_argument("--honest", type=int, default=8)
    parser.add_argument("--seeds", default="0", help="of the noise; of small sets also of the held-out part")
    parser.add_argument(
        "--records", type=int, help="how many training records; default: all but the held-out"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=A,B,...")
    parser.add_argument("--variant", action="append", default=[], metavar='"FIELD=A FIELD=B"')
    parser.add_argument("--score", choices=("accuracy", "balanced", "auc"), default="accuracy")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--cache", type=Path, help="folder for features, so that another table need not wait")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    records = {seed: Records(load_config(args.config), args.records, seed, args.cache) for seed in seeds[:1]}
    first = records[seeds[0]]
    if len(first.images) + len(first.score_images) < SMALL:
        records |= {
            seed: Records(load_config(args.config), args.records, seed, args.cache) for seed in seeds[1:]
        }
    pairs = list(itertools.product(args.epsilons.split(","), args.trusts.split(",")))
    cells = [f"{trust} {epsilon}" for epsilon, trust in pairs]
    rows: list[dict[str, Any]] = []
    for given in variants(args.vary, args.variant):
        row: dict[str, Any] = {"settings": given, "runs": {}}
        tried = Tried.from_settings({k: v for k, v in given.items() if k.startswith("try.")})
        product = {k: v for k, v in given.items() if not k.startswith("try.")}
        began = time.perf_counter()
        for cell, (epsilon, trust) in zip(cells, pairs, strict=True):
            plan = build_plan(load_config(args.config, settings(args, trust, epsilon, product)))
            row["runs"][cell] = [
                run(plan, records.get(seed, first), seed, tried, args.score) for seed in seeds
            ]
        row["seconds"] = round(time.perf_counter() - began, 1)
        rows.append(row)
        compare(rows, cells)
        record = keep("bakeoff", args, argv, first, cells, rows, score=args.score)
        print(table(record | {"rows": rows[-1:]}).splitlines()[-1], flush=True)
    print(table(record))


def run(plan: RunPlan, records: Records, seed: int, tried: Tried, score: str) -> float:
    """Score of one row, one cell and one seed."""
    codes, scored = records.codes(plan, tried)
    state = prototype_stage.learn(plan, codes, records.labels, records.total, seed, tried)
    found = prototype_stage.held_out_score(plan, state, scored, records.score_labels, tried, score)
    return round(found, 4)


if __name__ == "__main__":
    main()
