"""How long shadow models of the digits classifier take, together and one after the other.

    python benchmarks/shadow_speed.py

They are trained as a client of `--config digits --epsilon 4` trains its classifier: by DP-SGD, with the
numbers of its plan, on features where the trunk is fixed. Both ways run in one process, in turn, with as many
threads as torch is given. Kept in `benchmarks/results/shadow_speed.json`: seconds on the clock, and those of
the processor, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

MODELS, ALONE, RECORDS = 64, 4, 287


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--note", default="", help="a sentence to keep with the result")
    args = parser.parse_args(argv)
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from attacks.membership import shadows
    from attacks.membership.shadows import Recipe, random_halves, train_shadows
    from mosaic_secure.client.training import fixed_features, initial_classifier
    from mosaic_secure.config import load_config
    from mosaic_secure.models.classifiers import trainable_part
    from mosaic_secure.plan import build_plan

    plan = build_plan(load_config("digits", {}))
    digits = load_digits()
    images = torch.from_numpy(digits.images[: 2 * RECORDS, None].astype(np.float32) / 16)
    labels = torch.from_numpy(digits.target[: 2 * RECORDS].astype(np.int64))
    inside = random_halves(MODELS, 2 * RECORDS, 0)
    rows, most = {}, shadows.MOST_NUMBERS
    for architecture in plan.config.architecture_groups:
        dpsgd = plan.dpsgd("classifier", RECORDS, architecture)
        recipe = Recipe(
            steps=dpsgd.steps,
            sample_rate=dpsgd.sample_rate,
            learning_rate=dpsgd.learning_rate,
            momentum=dpsgd.momentum,
            clip=dpsgd.max_grad_norm,
            noise_multiplier=dpsgd.noise_multiplier,
            ema_decay=dpsgd.ema_decay,
            expected_batch=dpsgd.expected_batch_size,
        )
        trained, trunk = trainable_part(initial_classifier(plan.config, architecture, (1, 8, 8), 10))

        def seconds(count: int, most: int, trained=trained, trunk=trunk, recipe=recipe) -> list[float]:
            """On the clock and of the processor."""
            shadows.MOST_NUMBERS = most
            began = np.array([time.monotonic(), time.process_time()])
            seen = images if trunk is None else fixed_features(trunk, images)
            train_shadows(lambda _: copy.deepcopy(trained), seen, labels, inside[:count], recipe, seed=0)
            return (np.array([time.monotonic(), time.process_time()]) - began).tolist()

        together = seconds(MODELS, most)
        alone = [value * MODELS / ALONE for value in seconds(ALONE, 1)]
        rows[architecture] = {
            "seconds_together": round(together[0], 2),
            "seconds_one_by_one": round(alone[0], 2),
            "processor_seconds_together": round(together[1], 2),
            "processor_seconds_one_by_one": round(alone[1], 2),
            "ratio": round(alone[1] / together[1], 2),
            "steps": recipe.steps,
        }
        print(architecture, rows[architecture], flush=True)
    record = {
        "schema_version": 1,
        "command": "python benchmarks/shadow_speed.py",
        "date": datetime.now(UTC).date().isoformat(),
        "what": f"{MODELS} models of {RECORDS} records each; one by one from {ALONE} of them",
        "note": args.note,
        "threads": torch.get_num_threads(),
        "architectures": rows,
        "hardware": hardware(),
        "versions": versions(),
    }
    (RESULTS / "shadow_speed.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
