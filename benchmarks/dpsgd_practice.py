"""Try DP-SGD practice on one client's classifier, on held-out training records, and write a table.

    python benchmarks/dpsgd_practice.py dpsgd --epsilons 1,4 --variant '' --vary try.model=cnn,cnn_wide

The client holds a tenth of Fashion-MNIST's training records, drawn evenly: what skew does to a classifier
would hide what its training does. Its budget is the classifier's share of the run's. Rows, settings and the
table are those of `bakeoff.py`; what begins with "try." is in `Practice`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import prototype_stage  # noqa: E402  (scripts beside this one)
from bakeoff import Records, compare, keep, table, variants  # noqa: E402
from measure import RESULTS  # noqa: E402

from mosaic_secure.client.training import initial_classifier, train_classifier  # noqa: E402
from mosaic_secure.config import load_config  # noqa: E402
from mosaic_secure.models.classifiers import StandardisedConv2d, predict_logits  # noqa: E402
from mosaic_secure.plan import RunPlan, build_plan  # noqa: E402
from mosaic_secure.server.class_sampler import sampler_of  # noqa: E402
from privacy.randomness import NoiseSource  # noqa: E402

_WARM_RECORDS, _WARM_EPOCHS, _WARM_BATCH, _WARM_RATE = 10_000, 4, 128, 2e-3


@dataclass(frozen=True)
class Practice:
    """What a row tries beside fields of the configuration.

    Attributes:
        model: architecture; of "cnn_wide" also "cnn_wide-ws" (without weight standardisation), "cnn_wide-gn"
            (without group normalisation) and "cnn_wide-ws-gn".
        warm: start from training on images that are drawn from the released moments; no privacy is spent.
        private: 0 leaves DP-SGD out.
        rate: times the learning rate of the configuration.
    """

    model: str = "cnn"
    warm: int = 0
    private: int = 1
    rate: float = 1.0

    @classmethod
    def of(cls, settings: dict[str, str]) -> Practice:
        """From settings that begin with "try."."""
        kinds = {f.name: type(f.default) for f in fields(cls)}
        given = {k.removeprefix("try."): v for k, v in settings.items() if k.startswith("try.")}
        unknown = sorted(set(given) - set(kinds))
        if unknown:
            raise SystemExit(f"try.{unknown[0]} is unknown; one of {', '.join('try.' + k for k in kinds)}")
        return cls(**{name: kinds[name](text) for name, text in given.items()})


def network(plan: RunPlan, model: str) -> nn.Module:
    """The network that a client starts from."""
    architecture, *without = model.split("-")
    made = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if "ws" in without and isinstance(child, StandardisedConv2d):
                plain = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding
                )
                plain.load_state_dict(child.state_dict())
                setattr(module, name, plain)
            elif "gn" in without and isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return made


def warm_start(plan: RunPlan, model: nn.Module, records: Records, seed: int, kept: dict[Any, Any]) -> None:
    """Train `model` on images drawn from moments that all clients released with the plan's noise."""
    tried = prototype_stage.Tried()
    key = (plan.config.privacy.epsilon, seed)
    if key not in kept:
        codes, _ = records.codes(plan, tried)
        state = prototype_stage.learn(plan, codes, records.labels, records.total, seed, tried)
        labels = torch.arange(_WARM_RECORDS) % plan.num_classes
        kept[key] = sampler_of(plan, state, None).draw(labels, seed), labels
    images, labels = kept[key]
    stream = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=_WARM_RATE)
    for _ in range(_WARM_EPOCHS):
        for rows in torch.randperm(len(images), generator=stream).split(_WARM_BATCH):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def run(
    plan: RunPlan,
    records: Records,
    seed: int,
    practice: Practice,
    kept: dict[Any, Any],
) -> float:
    """Accuracy on the held-out records of one row, one epsilon and one seed."""
    count = len(records.labels) // plan.config.clients.count
    start = seed % plan.config.clients.count * count
    images = torch.from_numpy(records.images[start : start + count])
    labels = torch.from_numpy(records.labels[start : start + count])
    model = network(plan, practice.model)
    if practice.warm:
        warm_start(plan, model, records, seed, kept)
    if practice.private:
        architecture = practice.model.partition("-")[0]
        made = plan.dpsgd("classifier", count, architecture)
        made = replace(made, learning_rate=made.learning_rate * practice.rate)
        noise = NoiseSource(seed.to_bytes(32), "dpsgd-practice")
        train_classifier(model, images, labels, made, noise, plan.config.classifier.augmentations)
    found = predict_logits(model, torch.from_numpy(records.score_images)).argmax(1)
    return round(float((found == torch.from_numpy(records.score_labels)).double().mean()), 4)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--config", default="fashion_mnist")
    parser.add_argument("--epsilons", default="4")
    parser.add_argument("--seeds", default="0", help="of the noise, and which tenth of the records it is")
    parser.add_argument("--records", type=int, help="training records of all clients; default: all")
    parser.add_argument("--vary", action="append", default=[], metavar="FIELD=A,B,...")
    parser.add_argument("--variant", action="append", default=[], metavar='"FIELD=A FIELD=B"')
    parser.add_argument("--cache", type=Path, help="folder for codes")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    records = Records(load_config(args.config), args.records, 0, args.cache)
    epsilons = args.epsilons.split(",")
    cells = [f"epsilon {epsilon}" for epsilon in epsilons]
    rows: list[dict[str, Any]] = []
    kept: dict[Any, Any] = {}
    for given in variants(args.vary, args.variant):
        row: dict[str, Any] = {"settings": given, "runs": {cell: [] for cell in cells}}
        practice, began = Practice.of(given), time.perf_counter()
        for (cell, epsilon), seed in itertools.product(zip(cells, epsilons, strict=True), seeds):
            product = {name: value for name, value in given.items() if not name.startswith("try.")}
            plan = build_plan(load_config(args.config, {"privacy.epsilon": epsilon} | product))
            row["runs"][cell].append(run(plan, records, seed, practice, kept))
        row["seconds"] = round(time.perf_counter() - began, 1)
        rows.append(row)
        compare(rows, cells)
        record = keep("dpsgd_practice", args, argv, records, cells, rows)
        print(table(record | {"rows": rows[-1:]}).splitlines()[-1], flush=True)
    print(table(record))


if __name__ == "__main__":
    main()
