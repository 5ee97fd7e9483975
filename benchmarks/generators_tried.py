"""Try generators of synthetic images at one share of the privacy budget, and write a table.

Each candidate draws images; a small convolutional network learns from them alone and is scored on held-out
training records, once with the labels that were asked for and once with those that the prototype expert of
the same epsilon gives. No test set is read. With fewer records than the set has the noise shrinks by the same
factor, so that the ratio of signal to noise is that of the whole set. The candidates: `generator_candidates`.

    python benchmarks/generators_tried.py generators --alphas 0.1,1000 --epsilons 1,4
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bakeoff import Records, keep  # noqa: E402  (scripts beside this one)
from generator_candidates import CANDIDATES, PRESET, SHARE, Expert, World  # noqa: E402
from measure import RESULTS  # noqa: E402

from mosaic_secure.config import RunConfig, load_config  # noqa: E402
from mosaic_secure.models.classifiers import predict_logits  # noqa: E402
from mosaic_secure.plan import RunPlan, build_plan  # noqa: E402
from mosaic_secure.server.fresh_student import fresh_student  # noqa: E402


def config_of(
    args: argparse.Namespace, seed: int, alpha: str, epsilon: str, given: dict[str, str]
) -> RunConfig:
    """Configuration of one row, one cell and one seed."""
    fields = {
        "preset": PRESET,
        "seed": str(seed),
        "partition.alpha": alpha,
        "privacy.epsilon": epsilon,
    }
    fields |= dict(item.split("=", 1) for item in args.set) | given
    if given.get("privacy.trust") == "distributed":
        fields["privacy.honest_clients"] = str(args.honest)
    return load_config(args.config, fields)


def plan_of(args: argparse.Namespace, seed: int, alpha: str, epsilon: str, given: dict[str, str]) -> RunPlan:
    """The plan of `config_of`, with its noise calibrated."""
    return build_plan(config_of(args, seed, alpha, epsilon, given))


def score(images: Tensor, labels: Tensor, world: World) -> float:
    """Accuracy on the held-out records of a network that learns from these alone."""
    records, plan = world.records, world.plan
    model = fresh_student(images, labels, plan.num_classes, plan.config.seed)
    found = predict_logits(model, torch.from_numpy(records.score_images)).argmax(1).numpy()
    return round(float((found == records.score_labels).mean()), 4)


def table(record: dict[str, Any]) -> str:
    """A result as a table in Markdown; a cell has the accuracy with labels as asked / by the expert."""
    cells = record["cells"]
    lines = ["| generator | " + " | ".join(cells) + " |", "| --- |" + " --- |" * len(cells)]
    for row in record["rows"]:
        shown = (
            " / ".join(_shown(row["runs"][cell][kind]) for kind in ("asked", "expert")) for cell in cells
        )
        lines.append(f"| {row['candidate']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(runs: list[float]) -> str:
    deviation = f" ± {statistics.stdev(runs):.4f}" if len(runs) > 1 else ""
    return f"{statistics.mean(runs):.4f}{deviation}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--config", default="fashion_mnist")
    parser.add_argument("--epsilons", default="4")
    parser.add_argument("--alphas", default="0.1", help="of the Dirichlet split over clients")
    parser.add_argument("--honest", type=int, default=8)
    parser.add_argument("--seeds", default="0", help="of noise, split and networks")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--synthetic", type=int, default=10_000, help="images that each candidate draws")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for all rows")
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="these candidates; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    alphas, epsilons = args.alphas.split(","), args.epsilons.split(",")
    records = Records(load_config(args.config), args.records, seeds[0])
    cells = {f"α {alpha}, ε {epsilon}": (alpha, epsilon) for epsilon in epsilons for alpha in alphas}
    experts = {
        (seed, epsilon): Expert(plan_of(args, seed, alphas[0], epsilon, {}), records)
        for seed in seeds
        for epsilon in epsilons
    }
    rows: list[dict[str, Any]] = []
    for name in args.only or CANDIDATES:
        candidate, began = CANDIDATES[name], time.perf_counter()
        runs: dict[str, dict[str, list[float]]] = {}
        for cell, (alpha, epsilon) in cells.items():
            runs[cell] = {"asked": [], "expert": []}
            if not candidate.parted and alpha != alphas[0]:
                # Sums over clients do not depend on who holds which record.
                runs[cell] = runs[f"α {alphas[0]}, ε {epsilon}"]
                continue
            for seed in seeds:
                expert = experts[seed, epsilon]
                world = World(plan_of(args, seed, alpha, epsilon, candidate.settings), records)
                images, labels = candidate.draw(world, args.synthetic)
                runs[cell]["asked"].append(score(images, labels, world))
                runs[cell]["expert"].append(score(images, expert.labels(images), world))
        seconds = round(time.perf_counter() - began, 1)
        rows.append({"candidate": name, "settings": candidate.settings, "runs": runs, "seconds": seconds})
        scores = {f"ε {epsilon}": [experts[seed, epsilon].score for seed in seeds] for epsilon in epsilons}
        more = {"synthetic": args.synthetic, "share": SHARE, "expert_accuracy": scores}
        record = keep("generators_tried", args, argv, records, list(cells), rows, **more)
        print(table(record | {"rows": rows[-1:]}).splitlines()[-1], f"({seconds:.0f} s)", flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
