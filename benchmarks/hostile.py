"""How far do hostile clients get? Runs with some that poison their records, weights or counts.

    python benchmarks/hostile.py                    # all rows that are missing, seed 0
    python benchmarks/hostile.py --only flip        # rows whose name holds this text
    python benchmarks/hostile.py --seeds 0,1,2
    python benchmarks/hostile.py --list
    python benchmarks/hostile.py --table            # what there is, as Markdown

A row is an attack, a number of hostile clients among ten, and an epsilon, on digits. Its runs lie in
`benchmarks/results/hostile/ROW.json`, one a seed, with hardware, versions and commit of each. What the
clients do is in `hostile_app.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hostile_app import BACKDOOR, SOURCE, TARGET, VARIABLE, with_trigger  # noqa: E402  (beside this script)
from measure import RESULTS, hardware, versions, write_result  # noqa: E402

FOLDER = RESULTS / "hostile"
CLIENTS = 10
ATTACKS = {
    "flip": "labels shifted by one",
    "targeted": f"every {SOURCE} labelled {TARGET}",
    "backdoor": f"white corner means {BACKDOOR}",
    "random": "random classifier",
    "random_lie": "random classifier, false counts",
    "sums": "sums times -5",
}


@dataclass(frozen=True)
class Row:
    """One attack by `hostile` of the ten clients."""

    attack: str
    hostile: int
    epsilon: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """As the file is called."""
        who = self.attack if self.attack == "none" else f"{self.attack}_{self.hostile}"
        return "_".join([who, self.epsilon, *(value for _, value in self.settings)])


def rows() -> Iterator[Row]:
    """The honest run first, then every attack by one, two and three clients."""
    for epsilon in ("4", "inf"):
        yield Row("none", 0, epsilon)
        for hostile in (3, 1, 2):
            yield from (Row(a, hostile, epsilon) for a in ATTACKS if a != "sums" or hostile == 1)


def kept(row: Row) -> dict[str, Any]:
    """The row's record, as it stands."""
    path = FOLDER / f"{row.name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return {"schema_version": 1, "name": row.name, **vars(row), "clients": CLIENTS, "runs": []}


def missing(row: Row, seeds: Sequence[int]) -> list[int]:
    """Seeds without a run."""
    return [seed for seed in seeds if seed not in {run["seed"] for run in kept(row)["runs"]}]


def attackers(config: Any, attack: str, number: int) -> list[int]:
    """Positions of the hostile clients: the first ones; those with most of the class if one is aimed at."""
    from mosaic_secure.data.clients import label_counts

    if attack != "targeted":
        return list(range(number))
    held = label_counts(config)[:, SOURCE]
    return sorted(int(i) for i in (-held).argsort(kind="stable")[:number])


def run(row: Row, seed: int) -> dict[str, Any]:
    """One run, added to the row's file."""
    from mosaic_secure.config import load_config
    from mosaic_secure.data.clients import label_counts

    given = {"clients.count": CLIENTS, "privacy.epsilon": row.epsilon, "seed": seed, **dict(row.settings)}
    config = load_config("digits", given)
    hostile = attackers(config, row.attack, row.hostile)
    plan = {"attack": row.attack.removesuffix("_lie"), "clients": hostile, "lie": row.attack.endswith("_lie")}
    os.environ[VARIABLE] = json.dumps(plan)
    held = label_counts(config)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mosaic-hostile-") as scratch:
        measured = _measured(config, Path(scratch), hostile)
    done = {
        "seed": seed,
        "hostile": hostile,
        "hostile_records": round(float(held[hostile].sum() / held.sum()), 4),
        f"hostile_{SOURCE}s": round(float(held[hostile, SOURCE].sum() / held[:, SOURCE].sum()), 4),
        **measured,
        "wall_seconds": round(time.perf_counter() - began, 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "versions": versions(),
    }
    record = kept(row)
    record["runs"] = sorted(
        [*(r for r in record["runs"] if r["seed"] != seed), done], key=lambda r: r["seed"]
    )
    write_result(FOLDER / f"{row.name}.json", record)
    return done


def _measured(config: Any, place: Path, hostile: Sequence[int]) -> dict[str, Any]:
    """Train, and hold global model and teacher against clean and triggered test records."""
    import torch

    from mosaic_secure.data import load_public_test
    from mosaic_secure.engine.local import train
    from mosaic_secure.runs.artefacts import read_global_model
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server import assembly
    from mosaic_secure.server import run as serving

    seen: dict[str, Any] = {}
    assemble, train_gate = serving.assemble, assembly.train_gate

    def keeping_assembly(plan: Any, releases: Any, *arguments: Any, **options: Any) -> Any:
        seen["releases"], seen["plan"] = releases, plan
        seen["made"] = assemble(plan, releases, *arguments, **options)
        return seen["made"]

    def keeping_gate(*arguments: Any, **options: Any) -> Any:
        seen["gate"] = train_gate(*arguments, **options)
        return seen["gate"]

    serving.assemble, assembly.train_gate = keeping_assembly, keeping_gate
    try:
        result = train(config, out=place / "run", ledger_dir=place / "ledgers", client_app="hostile_app:app")
    finally:
        serving.assemble, assembly.train_gate = assemble, train_gate
    model, _ = read_global_model(RunDirectory.open(place / "run"))
    mixture, gate = seen["made"].mixture, seen["gate"]
    images, labels = load_public_test(config)

    @torch.no_grad()
    def said(pictures: Any) -> dict[str, Any]:
        batch = torch.from_numpy(pictures)
        answers = mixture.log_probabilities(batch)
        seen["trust"] = gate.trust(answers).mean(0)
        return {"global": model(batch).argmax(-1).numpy(), "teacher": gate(answers).argmax(-1).numpy()}

    triggered = said(with_trigger(images[labels != BACKDOOR]))
    clean = said(images)
    trust = {name: float(value) for name, value in zip(mixture.names, seen["trust"], strict=True)}
    source = labels == SOURCE
    out: dict[str, Any] = {"epsilon": result.epsilon}
    for who in ("global", "teacher"):
        out |= {
            who: round(float((clean[who] == labels).mean()), 4),
            f"{who}_worst_class": round(
                min(float((clean[who] == c)[labels == c].mean()) for c in range(10)), 4
            ),
            f"{who}_{SOURCE}s": round(float((clean[who] == labels)[source].mean()), 4),
            f"{who}_{SOURCE}_as_{TARGET}": round(float((clean[who] == TARGET)[source].mean()), 4),
            f"{who}_triggered": round(float((triggered[who] == BACKDOOR).mean()), 4),
        }
    shares = _shares(config, seen["releases"], hostile)
    return out | {
        "trust_prototype": round(trust["prototype"], 4),
        "trust_hostile": round(sum(trust[name] * shares.get(name, 0.0) for name in trust), 4),
        "experts_hostile": round(sum(shares.values()) / max(1, len(trust) - 1), 4),
        "left_out": _left_out(place / "run"),
    }


def _shares(config: Any, releases: Any, hostile: Sequence[int]) -> dict[str, float]:
    """Of each expert that clients' classifiers make, the share of weight that hostile ones have in it."""
    import numpy as np

    bad = {config.client_ids[index] for index in hostile}
    groups: dict[str, list[str]] = {}
    for client in releases.classifiers:  # names alone: the weights went with the run's checkpoints
        groups.setdefault(config.architecture_of(config.places[client]), []).append(client)
    out: dict[str, float] = {}
    for architecture, clients in groups.items():
        if len(clients) == 1:
            out[f"{architecture}/{clients[0]}"] = float(clients[0] in bad)
            continue
        counts = np.maximum(np.stack([releases.counts[c] for c in clients]), 0.0)
        sizes = counts.sum(1, keepdims=True)
        counts = np.where(counts.sum(0) > 0, counts, sizes if sizes.sum() > 0 else np.ones_like(sizes))
        mine = counts[[client in bad for client in clients]].sum(0) / counts.sum(0)
        out |= {f"{architecture}/class-{c}": float(share) for c, share in enumerate(mine)}
    return out


def _left_out(path: Path) -> list[list[str]]:
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = (json.loads(line) for line in lines)
    return [[row["on"], row["of"], row["value"]] for row in found if row["metric"] == "left out"]


COLUMNS = {
    "records": "hostile_records",
    "accuracy": "global",
    "teacher": "teacher",
    "worst class": "global_worst_class",
    "7 right": "global_7s",
    "7 as 1": "global_7_as_1",
    "triggered as 0": "global_triggered",
    "trust": "trust_hostile",
}
"""Heading and field, in percent; of the global model where nothing else is said."""


def table() -> str:
    """What there is, as Markdown: means over seeds, in percent, attack by attack."""
    heads = ["ε", "attack", "hostile", "seeds", *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    order = ["none", *ATTACKS]
    for row in sorted(rows(), key=lambda row: (row.epsilon, order.index(row.attack), row.hostile)):
        runs = kept(row)["runs"]
        if runs:
            lines.append(_line(row, runs))
    return "\n".join(lines)


def _line(row: Row, runs: Sequence[Mapping[str, Any]]) -> str:
    means = [f"{100 * statistics.fmean(run[name] for run in runs):.1f}" for name in COLUMNS.values()]
    what = ATTACKS.get(row.attack, "none")
    cells = [row.epsilon.replace("inf", "∞"), what, str(row.hostile), str(len(runs)), *means]
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this text")
    parser.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(argv)
    if options.table:
        print(table())
        return 0
    seeds = [int(seed) for seed in options.seeds.split(",")]
    chosen = [row for row in rows() if not options.only or any(text in row.name for text in options.only)]
    for seed in seeds:
        for row in chosen:
            if options.list:
                print(f"{row.name:24} seed {seed}: {'missing' if missing(row, [seed]) else 'there'}")
            elif missing(row, [seed]):
                done = run(row, seed)
                shown = ("global", "teacher", "global_triggered", "trust_hostile", "wall_seconds")
                print(f"{row.name} seed {seed}: " + "  ".join(f"{n} {done[n]}" for n in shown), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
