"""The operating points of a classifier of two classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HOUSE = Path(__file__).resolve().parents[2]


@pytest.fixture
def thresholds(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("thresholds")


def test_a_shifted_line_costs_balanced_accuracy_and_hindsight_moves_it_back(thresholds):
    # Two zeros above 0, all of them below every one: ranked without a fault, cut in the wrong place.
    scores = np.array([-2.0, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = thresholds.operating_points(scores, labels)
    assert (found["sensitivity"], found["specificity"], found["balanced_accuracy"]) == (1.0, 0.5, 0.75)
    assert (found["best_balanced_accuracy"], found["best_threshold"]) == (1.0, 1.0)


def test_hindsight_is_the_best_of_every_cut(thresholds):
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 60)
    scores = np.round(draws.normal(size=60) + labels, 1)  # with ties
    found = thresholds.operating_points(scores, labels)
    cuts = [((scores > c)[labels == 1].mean() + (scores <= c)[labels == 0].mean()) / 2 for c in scores]
    assert found["best_balanced_accuracy"] == pytest.approx(max(cuts))
    plain = ((scores > 0)[labels == 1].mean() + (scores <= 0)[labels == 0].mean()) / 2
    assert found["balanced_accuracy"] == pytest.approx(plain)


def test_the_document_has_the_table_of_the_kept_runs(thresholds):
    kept = json.loads((HOUSE / "benchmarks" / "results" / "thresholds.json").read_text(encoding="utf-8"))
    text = (HOUSE / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(thresholds.table(kept["runs"])) in text
