"""What shadow models find in a classifier that knows 300 digits by heart, and in one trained at epsilon 4.

    python benchmarks/overfit_digits.py

The classifier (`mlp`) is trained by the product's own code on a random half of 600 digits: without clipping
and noise until it knows them all, and by DP-SGD of method "local" at epsilon 4, the whole budget for this one
release. LiRA in its variants, RMIA and the loss threshold then judge all 600. Kept in
`benchmarks/results/overfit_digits.json`: every classifier by itself, and the means.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

if TYPE_CHECKING:
    from attacks.membership.shadows import Recipe
    from privacy.dpsgd import DPSGDPlan

RECORDS, EPSILON, RATES = 300, 4.0, (0.01, 0.1)
BY_HEART = {"steps": 400, "sample_rate": 0.1, "learning_rate": 0.5, "momentum": 0.5}


def plans() -> dict[str, DPSGDPlan]:
    """How the two kinds of classifier are trained."""
    from mosaic_secure.config import load_config
    from mosaic_secure.plan import build_plan
    from privacy.dpsgd import DPSGDPlan

    config = load_config("digits", {"method": "local", "privacy.epsilon": EPSILON})
    by_heart = DPSGDPlan(
        noise_multiplier=0.0,
        max_grad_norm=float("inf"),
        expected_batch_size=BY_HEART["sample_rate"] * RECORDS,
        **BY_HEART,
    )
    return {"by heart": by_heart, "private": build_plan(config).dpsgd("classifier", RECORDS, "mlp")}


def recipe(plan: DPSGDPlan) -> Recipe:
    """The same for shadow models."""
    from attacks.membership.shadows import Recipe

    return Recipe(
        steps=plan.steps,
        sample_rate=plan.sample_rate,
        learning_rate=plan.learning_rate,
        momentum=plan.momentum,
        clip=None if np.isinf(plan.max_grad_norm) else plan.max_grad_norm,
        noise_multiplier=plan.noise_multiplier,
        ema_decay=plan.ema_decay,
        expected_batch=plan.expected_batch_size,
    )


def judged(plan: DPSGDPlan, epsilon: float, delta: float, args: argparse.Namespace) -> dict[str, Any]:
    """Classifiers of one kind, each with what every attack reaches."""
    import torch
    from sklearn.datasets import load_digits

    from attacks.membership.attempts import attempts
    from attacks.membership.scores import Signals, logit_confidence
    from attacks.membership.shadows import random_halves, train_shadows
    from attacks.membership.views import shifted_views
    from attacks.summary import summarise
    from mosaic_secure.client.training import train_classifier
    from mosaic_secure.models.classifiers import predict_logits
    from mosaic_secure.models.registry import build_classifier
    from privacy.randomness import NoiseSource, fresh_secret

    def build(seed: int) -> torch.nn.Module:
        return build_classifier("mlp", (1, 8, 8), 10, seed)

    digits = load_digits()
    order = np.random.default_rng(args.seed).permutation(len(digits.target))[: 2 * RECORDS]
    images = torch.from_numpy(digits.images[order][:, None].astype(np.float32) / 16)
    labels = digits.target[order].astype(np.int64)
    inside = random_halves(args.shadows, 2 * RECORDS, args.seed)
    began = time.monotonic()
    models = train_shadows(build, images, torch.from_numpy(labels), inside, recipe(plan), seed=args.seed)
    seconds = time.monotonic() - began
    asked = shifted_views(images, args.views)

    def confidence(logits: np.ndarray) -> np.ndarray:
        return logit_confidence(logits.reshape(*logits.shape[:-2], *asked.shape[:2], 10), labels)

    said = confidence(models.logits(asked.flatten(0, 1)))
    rows = []
    for number in range(args.classifiers):
        rng = np.random.default_rng((args.seed, number))
        members = rng.permutation(2 * RECORDS) < RECORDS
        model = build(10_000 + number)
        own = torch.from_numpy(members)
        noise = NoiseSource(fresh_secret(), "overfit-digits")
        train_classifier(model, images[own], torch.from_numpy(labels[members]), plan, noise)
        logits = predict_logits(model, asked.flatten(0, 1)).numpy()
        right = logits.reshape(*asked.shape[:2], 10)[:, 0].argmax(1) == labels
        scores = attempts(Signals(confidence(logits), said, inside), np.flatnonzero(~members))
        found = {name: summarise(score, members, epsilon, delta) for name, score in scores.items()}
        rows.append(
            {
                "accuracy_on_members": float(right[members].mean()),
                "accuracy_on_others": float(right[~members].mean()),
                "attacks": {name: shown(summary) for name, summary in found.items()},
            }
        )
    names = list(rows[0]["attacks"])
    means = {
        name: {
            key: float(np.mean([row["attacks"][name][key] for row in rows]))
            for key in ("area", *(f"caught_at_{rate}" for rate in RATES))
        }
        for name in names
    }
    above = [
        (number, name, rate)
        for number, row in enumerate(rows)
        for name in names
        for rate in RATES
        if row["attacks"][name][f"interval_at_{rate}"][0] > row["attacks"][name][f"at_most_at_{rate}"]
    ]
    return {
        "recipe": vars(recipe(plan)),
        "shadow_seconds": round(seconds, 1),
        "means": means,
        "at_most": {str(rate): rows[0]["attacks"][names[0]][f"at_most_at_{rate}"] for rate in RATES},
        "intervals_above_the_ceiling": above,
        "classifiers": rows,
    }


def shown(summary: Any) -> dict[str, Any]:
    """The numbers of one attack on one classifier."""
    out = {"area": summary.area, "interval": [summary.area_interval.low, summary.area_interval.high]}
    for caught in summary.caught:
        if caught.fpr in RATES:
            out[f"caught_at_{caught.fpr}"] = caught.rate.value
            out[f"interval_at_{caught.fpr}"] = [caught.rate.interval.low, caught.rate.interval.high]
            out[f"at_most_at_{caught.fpr}"] = caught.at_most
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shadows", type=int, default=256)
    parser.add_argument("--classifiers", type=int, default=20)
    parser.add_argument("--views", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    kinds = {}
    for name, plan in plans().items():
        epsilon, delta = (float("inf"), 0.0) if name == "by heart" else (EPSILON, 1e-4)
        kinds[name] = judged(plan, epsilon, delta, args)
        for attack, row in kinds[name]["means"].items():
            print(name, attack, {key: round(value, 3) for key, value in row.items()}, flush=True)
        print(name, "ceiling", kinds[name]["at_most"], "above:", kinds[name]["intervals_above_the_ceiling"])
    record = {
        "schema_version": 1,
        "command": "python benchmarks/overfit_digits.py",
        "date": datetime.now(UTC).date().isoformat(),
        "what": f"{args.classifiers} classifiers of {RECORDS} digits, {args.shadows} shadow models, "
        f"{args.views} views",
        "kinds": kinds,
        "hardware": hardware(),
        "versions": versions(),
    }
    (args.results / "overfit_digits.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
