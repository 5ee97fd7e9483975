"""Try settings of the prototype stage on a validation part of the training records, and write a table.

The stage's own mechanisms and learning rules run on cached codes; encryption, which changes no number, is
left out. A part of the training records is held out for scores (a sixth of 60,000; of small sets a fifth, drawn
anew for each seed); no test set is read. With --records fewer records are used and the noise shrinks by the same
factor, so that the ratio of signal to noise is that of the whole set.

    python benchmarks/bakeoff.py whitening --config fashion_mnist --vary prototypes.whitening=0,0.5,0.75,1

Several --vary give every combination; --variant "a.b=1 c.d=2" adds one row with several settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

from mosaic_secure.config import RunConfig, load_config  # noqa: E402
from mosaic_secure.plan import RunPlan, build_plan  # noqa: E402
from mosaic_secure.server import prototypes  # noqa: E402
from privacy.randomness import NoiseSource  # noqa: E402

SMALL = 5000  # records; below it each seed draws a held-out part of its own


class Records:
    """Public training images, split into those that are learnt from and those that score."""

    def __init__(self, config: RunConfig, limit: int | None, seed: int) -> None:
        from mosaic_secure.data.benchmarks import locate, read_benchmark

        name = config.data.dataset
        raw = read_benchmark(name, locate(name, None, None, download=False), train=True)
        small = len(raw.labels) < SMALL
        order = np.random.default_rng([20, seed if small else 0]).permutation(len(raw.labels))
        held = len(order) // 5 if small else len(order) // 6
        self.total = len(order) if limit else len(order) - held
        learn = order[held:][:limit]
        images = np.asarray(raw.images, dtype=np.float32)
        self.images, self.labels = images[learn], np.asarray(raw.labels)[learn].astype(np.int64)
        self.score_images, self.score_labels = images[order[:held]], np.asarray(raw.labels)[order[:held]]
        self._codes: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def codes(self, plan: RunPlan) -> tuple[np.ndarray, np.ndarray]:
        """Codes of both parts, computed once for each encoder."""
        from mosaic_secure.models.encoders import encode

        part = plan.config.prototypes
        key = (part.encoder, part.dim, part.image_size, part.pixel_weight, plan.config.seed)
        if key not in self._codes:
            encoder = plan.encoder()
            self._codes = {key: (encode(encoder, self.images), encode(encoder, self.score_images))}
        return self._codes[key]


def stage(plan: RunPlan, records: Records, seed: int) -> float:
    """Accuracy of the prototype expert after all rounds."""
    from mosaic_secure.models.encoders import centre_codes

    codes, scored = records.codes(plan)
    labels, clients = records.labels, plan.config.clients.count
    weaker = len(labels) / records.total
    rng = np.random.default_rng(seed)
    exact = np.bincount(labels, minlength=plan.num_classes).astype(float)
    spread = plan.counts.noise_std("counts", clients) * weaker if plan.counts else 0.0
    counts = exact + rng.normal(0.0, spread, len(exact))
    state = prototypes.start(plan.code_dim, plan.num_classes)
    moved = codes
    for wanted in plan.rounds:
        made = dataclasses.replace(
            wanted.mechanism, noise_multiplier=wanted.mechanism.noise_multiplier * weaker
        )
        sums = noisy_sums(made, moved, labels, clients, rng, state.scaled_weights)
        if wanted.release == "centre":
            state = prototypes.take_centre(state, sums["code_sum"], float(counts.sum()))
            codes = moved = centre_codes(codes, state.centre).astype(np.float32)
            scored = centre_codes(scored, state.centre)
        elif wanted.release == "moments":
            stds = [m.noise_std("counts", clients) for m in (made, plan.counts)]
            known = prototypes.best_counts(sums["counts"], stds[0], counts, stds[1] * weaker)
            state = prototypes.take_moments(state, sums, known, made, clients, plan.config.prototypes)
            moved = codes @ state.metric
        else:
            state = prototypes.take_gradient(
                state, sums["gradient"], wanted.round, made, clients, plan.config.prototypes
            )
    return accuracy(scored @ state.weights, records.score_labels)


def noisy_sums(
    made: Any, codes: np.ndarray, labels: np.ndarray, clients: int, rng: np.random.Generator, weights: Any
) -> dict[str, np.ndarray]:
    """What the decrypted sum decodes to: exact sums of the mechanism, and the noise of all clients at once."""
    exact = dataclasses.replace(made, noise_multiplier=0.0, limit=2**62)
    source = NoiseSource(bytes(32), "no noise is drawn from it")
    values = np.zeros(made.length, dtype=np.int64)
    for part in np.array_split(np.arange(len(labels)), max(1, len(labels) // 5000)):
        values += exact.release(codes[part], labels[part], source, weights)
    noise = rng.normal(0.0, made.own_std * clients**0.5, made.length)
    return made.decode(values + np.rint(noise).astype(np.int64))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def variants(varied: list[str], single: list[str]) -> Iterator[dict[str, str]]:
    """Settings of each row."""
    axes = [[(name, v) for v in values.split(",")] for name, values in (t.split("=", 1) for t in varied)]
    if axes or not single:
        yield from (dict(choice) for choice in itertools.product(*axes))
    for text in single:
        yield dict(item.split("=", 1) for item in text.split())


def settings(args: argparse.Namespace, trust: str, epsilon: str, given: dict[str, str]) -> dict[str, str]:
    fields = {"privacy.trust": trust, "privacy.epsilon": epsilon}
    if trust == "distributed":
        fields["privacy.honest_clients"] = str(args.honest)
    return fields | dict(item.split("=", 1) for item in args.set) | given


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--config", default="fashion_mnist")
    parser.add_argument("--epsilons", default="4")
    parser.add_argument("--trusts", default="local,distributed")
    parser.add_argument("--honest", type=int, default=8)
    parser.add_argument("--seeds", default="0")
    parser.add_argument(
        "--records", type=int, help="how many training records; default: all but the held-out"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=A,B,...")
    parser.add_argument("--variant", action="append", default=[], metavar='"FIELD=A FIELD=B"')
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    records = {seed: Records(load_config(args.config), args.records, seed) for seed in seeds[:1]}
    if len(records[seeds[0]].images) < SMALL:
        records = {seed: Records(load_config(args.config), args.records, seed) for seed in seeds}
    rows: list[dict[str, Any]] = []
    for given in variants(args.vary, args.variant):
        row: dict[str, Any] = {"settings": given}
        began = time.perf_counter()
        for epsilon, trust in itertools.product(args.epsilons.split(","), args.trusts.split(",")):
            plan = build_plan(load_config(args.config, settings(args, trust, epsilon, given)))
            found = [stage(plan, records.get(seed, records[seeds[0]]), seed) for seed in seeds]
            row[f"{trust} {epsilon}"] = round(statistics.mean(found), 4)
            row[f"{trust} {epsilon} std"] = round(statistics.stdev(found), 4) if len(found) > 1 else None
        row["seconds"] = round(time.perf_counter() - began, 1)
        rows.append(row)
        print(json.dumps(row), flush=True)
    record = {
        "schema_version": 1,
        "name": args.name,
        "command": "python benchmarks/bakeoff.py " + " ".join(argv or sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "records": len(records[seeds[0]].labels),
        "scored_on": f"{len(records[seeds[0]].score_labels)} held-out training records",
        "hardware": hardware(),
        "versions": versions(),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"bakeoff_{args.name}.json"
    path.write_text(json.dumps(record, indent=2) + os.linesep)


if __name__ == "__main__":
    main()
