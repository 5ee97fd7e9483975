"""How long shadow models of the digits classifier take, together and one after the other.

    python benchmarks/shadow_speed.py

They are trained as a client of `--config digits --epsilon 4` trains its classifier: by DP-SGD, with the
numbers of its plan. Both ways run in one process, in turn; kept in `benchmarks/results/shadow_speed.json`.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

MODELS, ALONE, RECORDS = 64, 8, 287


def main() -> int:
    """Measure, print and keep."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from attacks.membership import shadows
    from attacks.membership.shadows import Recipe, random_halves, train_shadows
    from mosaic_secure.config import load_config
    from mosaic_secure.models.registry import build_classifier
    from mosaic_secure.plan import build_plan

    plan = build_plan(load_config("digits", {}))
    digits = load_digits()
    images = torch.from_numpy(digits.images[: 2 * RECORDS, None].astype(np.float32) / 16)
    labels = torch.from_numpy(digits.target[: 2 * RECORDS].astype(np.int64))
    inside = random_halves(MODELS, 2 * RECORDS, 0)
    rows = {}
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
        )

        def build(seed: int, architecture: str = architecture) -> torch.nn.Module:
            return build_classifier(architecture, (1, 8, 8), 10, seed)

        def seconds(count: int, most: int, build=build, recipe=recipe) -> float:
            shadows.MOST_NUMBERS = most
            began = time.monotonic()
            train_shadows(build, images, labels, inside[:count], recipe, seed=0)
            return time.monotonic() - began

        together = seconds(MODELS, 2**22)
        alone = seconds(ALONE, 1) * MODELS / ALONE
        rows[architecture] = {
            "seconds_together": round(together, 2),
            "seconds_one_by_one": round(alone, 2),
            "ratio": round(alone / together, 2),
            "steps": recipe.steps,
        }
        print(architecture, rows[architecture], flush=True)
    record = {
        "schema_version": 1,
        "command": "python benchmarks/shadow_speed.py",
        "date": datetime.now(UTC).date().isoformat(),
        "what": f"{MODELS} models of {RECORDS} records each; one by one from {ALONE} of them",
        "threads": torch.get_num_threads(),
        "architectures": rows,
        "hardware": hardware(),
        "versions": versions(),
    }
    (RESULTS / "shadow_speed.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
