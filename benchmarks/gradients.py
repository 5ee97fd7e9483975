"""Ways to a clipped sum of per-record gradients, side by side: milliseconds and ratios to plain SGD.

python benchmarks/gradients.py gradients
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, hardware, versions

CASES = (
    ("cnn", (1, 8, 8), 60),
    ("cnn", (1, 28, 28), 256),
    ("cnn_wide", (1, 28, 28), 256),
    ("mlp", (1, 8, 8), 60),
)
CLIP = 1.0


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy."""
    return nn.functional.cross_entropy(model(images), labels)


def ways(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Name -> one step without the optimiser's update."""
    from opacus import GradSampleModule

    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def one(params: dict, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, params, (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    def clipped(rows: list[torch.Tensor]) -> None:
        norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows]).norm(dim=0)
        factors = (CLIP / (norms + 1e-6)).clamp(max=1.0)
        for row in rows:
            factors @ row.flatten(1)

    def by_vmap(chunk: int | None) -> Callable[[], None]:
        rows = vmap(grad(one), in_dims=(None, 0, 0), chunk_size=chunk)
        return lambda: clipped(list(rows(parameters, images, labels).values()))

    def accumulated(chunk: int) -> Callable[[], None]:
        rows = vmap(grad(one), in_dims=(None, 0, 0))

        def step() -> None:
            for part, target in zip(images.split(chunk), labels.split(chunk), strict=True):
                clipped(list(rows(parameters, part, target).values()))

        return step

    def plain() -> None:
        model.zero_grad()
        loss_of(model, images, labels).backward()

    import copy

    hooked = GradSampleModule(copy.deepcopy(model))

    def hooks() -> None:
        hooked.zero_grad()
        loss_of(hooked, images, labels).backward()
        clipped([value.grad_sample for value in hooked.parameters() if value.requires_grad])

    return {
        "plain SGD (no clipping)": plain,
        "vmap, whole batch": by_vmap(None),
        "vmap, chunk_size=64": by_vmap(64),
        "vmap, 128 rows at a time": accumulated(128),
        "Opacus hooks": hooks,
    }


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """Median of `repeats` after two warm-ups."""
    times = []
    for index in range(repeats + 2):
        began = time.perf_counter()
        step()
        if index >= 2:
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", help="name of the result file")
    parser.add_argument("--repeats", type=int, default=15)
    chosen = parser.parse_args()
    from mosaic_secure.models.registry import build_classifier, parameter_count

    torch.set_num_threads(1)
    rows = []
    for name, shape, batch in CASES:
        model = build_classifier(name, shape, 10, 0)
        images, labels = torch.rand(batch, *shape), torch.arange(batch) % 10
        found = {way: milliseconds(step, chosen.repeats) for way, step in ways(model, images, labels).items()}
        base = found["plain SGD (no clipping)"]
        for way, value in found.items():
            row = {"model": name, "image": shape[-1], "batch": batch, "parameters": parameter_count(model)}
            rows.append({**row, "way": way, "ms": round(value, 2), "ratio": round(value / base, 2)})
            print(rows[-1], flush=True)
    record = {
        "schema_version": 1,
        "name": chosen.name,
        "command": f"python benchmarks/gradients.py {chosen.name}",
        "hardware": hardware(),
        "versions": versions(),
        "threads": 1,
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
