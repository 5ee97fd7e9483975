"""Hold the membership scores of `attacks.membership` against two public implementations, on the same signals.

    git clone https://github.com/orientino/lira-pytorch /tmp/lira
    git clone https://github.com/privacytrustlab/ml_privacy_meter /tmp/rmia
    python benchmarks/attack_agreement.py --lira /tmp/lira/plot.py \\
        --rmia /tmp/rmia/modules/mia/attacks/rmia.py

A target and shadow models learn digits by heart; each implementation scores the same records from the same
outputs. Kept in `benchmarks/results/attack_agreement.json`: rank correlations, and members caught at one
false alarm in a hundred.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

RECORDS, SHADOWS, POPULATION = 1000, 128, 300
RECIPE = {"steps": 200, "sample_rate": 0.2, "learning_rate": 0.5, "momentum": 0.5}


def load(path: Path) -> ModuleType:
    """A module of someone else, read where it lies; its command line is kept from seeing ours."""
    spec = importlib.util.spec_from_file_location(f"theirs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    before, sys.argv = sys.argv, [str(path)]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv = before
    return module


def signals(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Logits [S + 1, N, K] of target and shadow models, labels [N], membership [S + 1, N], seconds."""
    import torch
    from sklearn.datasets import load_digits

    from attacks.membership.shadows import Recipe, random_halves, train_shadows
    from mosaic_secure.models.registry import build_classifier

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))[:RECORDS]
    images = torch.from_numpy(digits.images[order][:, None].astype(np.float32) / 16)
    labels = digits.target[order].astype(np.int64)
    inside = random_halves(SHADOWS, RECORDS, seed)
    inside = np.concatenate([np.random.default_rng(seed).random((1, RECORDS)) < 0.5, inside])
    inside[:, -POPULATION:] = False  # nobody's: what RMIA compares with

    def build(number: int) -> torch.nn.Module:
        return build_classifier("mlp", (1, 8, 8), 10, number)

    began = time.monotonic()
    models = train_shadows(build, images, torch.from_numpy(labels), inside, Recipe(**RECIPE), seed=seed)
    return models.logits(images), labels, inside, time.monotonic() - began


def compared(ours: np.ndarray, theirs: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """Rank correlation, and what each catches at one false alarm in a hundred."""
    from scipy import stats

    from attacks.rates import area, catch_rate

    mine, other = (catch_rate(s[members], s[~members], 0.01) for s in (ours, theirs))
    return {
        "rank_correlation": float(stats.spearmanr(ours, theirs).statistic),
        "area": area(ours[members], ours[~members])[0],
        "area_theirs": area(theirs[members], theirs[~members])[0],
        "caught_at_1_percent": mine.value,
        "caught_at_1_percent_interval": [mine.interval.low, mine.interval.high],
        "caught_at_1_percent_theirs": other.value,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lira", type=Path, required=True, help="plot.py of lira-pytorch")
    parser.add_argument("--rmia", type=Path, required=True, help="rmia.py of ml_privacy_meter")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args(argv)
    from attacks.membership.scores import (
        Signals,
        lira_online,
        logit_confidence,
        rmia,
        true_probability,
    )

    lira, meter = load(options.lira), load(options.rmia)
    runs = []
    for seed in map(int, options.seeds.split(",")):
        logits, labels, inside, seconds = signals(seed)
        judged = slice(0, RECORDS - POPULATION)
        confidence = logit_confidence(logits[:, :, None, :], labels)[:, judged]
        members, seen = inside[0, judged], inside[1:, judged]
        own = Signals(confidence[0], confidence[1:], seen)
        run: dict[str, Any] = {"seed": seed, "shadow_seconds": seconds}
        for name, median in (("lira online, medians", True), ("lira online", False)):
            score, _ = lira.generate_ours(seen, confidence[1:], [members], confidence[:1])
            run[name] = compared(lira_online(own, median=median), -np.asarray(score), members)
        # Theirs takes as many reference models for the population as for a record: half of them.
        chances = true_probability(logits[:, :, None, :], labels)
        half, outside = SHADOWS // 2, inside[1:].copy()
        outside[half:, RECORDS - POPULATION :] = True  # not asked about the population
        population = np.arange(RECORDS - POPULATION, RECORDS)
        for a in (0.3, 1.0):
            theirs = meter.run_rmia(
                chances[0, judged, 0],
                chances[1:, judged, 0].T,
                seen.T,
                chances[0, population, 0],
                chances[1 : half + 1, population, 0].T,
                a,
                half,
            )
            mine = rmia(Signals(chances[0], chances[1:], outside), population, offline=a)[judged]
            run[f"rmia, a = {a}"] = compared(mine, theirs, members)
        runs.append(run)
        for name, row in run.items():
            print(seed, name, row, flush=True)
    record = {
        "schema_version": 1,
        "command": "python benchmarks/attack_agreement.py --lira plot.py --rmia rmia.py",
        "date": datetime.now(UTC).date().isoformat(),
        "what": f"{RECORDS} digits, {SHADOWS} shadow models, {POPULATION} records of nobody",
        "recipe": RECIPE,
        "runs": runs,
        "hardware": hardware(),
        "versions": versions(),
    }
    (RESULTS / "attack_agreement.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
