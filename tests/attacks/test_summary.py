"""The numbers of a report, against the definitions and on scores whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from attacks.statistics import tpr_ceiling
from attacks.summary import FALSE_ALARMS, PRIORS, summarise


def scored(count: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    members = np.arange(2 * count) < count
    return rng.normal(size=2 * count) + shift * members, members


def test_rates_are_those_of_the_definition():
    scores, members = scored(2000, 1.0)
    found = summarise(scores, members, 4.0, 1e-5)
    assert (found.members, found.others, found.resolvable_fpr) == (2000, 2000, 0.001)
    for caught, fpr in zip(found.caught, FALSE_ALARMS, strict=True):
        threshold = np.sort(scores[~members])[::-1][int(fpr * 2000)]
        assert caught.rate.value == np.mean(scores[members] > threshold)
        assert caught.at_most == tpr_ceiling(4.0, 1e-5, fpr)
        for prior in PRIORS:
            right, wrong = prior * caught.rate.value, (1 - prior) * fpr
            assert caught.precision[prior] == pytest.approx(right / (right + wrong))
    assert found.area == pytest.approx(0.76, abs=0.02)
    assert found.balanced_accuracy == pytest.approx(0.69, abs=0.03)
    fpr, tpr = np.array(found.curve).T
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all() and len(fpr) <= 202
    assert found.curve[0] == (0.0, 0.0) and found.curve[-1] == (1.0, 1.0)
    assert np.trapezoid(tpr, fpr) == pytest.approx(found.area, abs=0.01)


def test_what_too_few_records_cannot_tell_is_left_open():
    scores, members = scored(50, 1.0)
    found = summarise(scores, members, math.inf, 0.0)
    assert [caught.rate is None for caught in found.caught] == [True, True, False]
    assert found.resolvable_fpr == 0.1 and found.caught[0].precision == dict.fromkeys(PRIORS)
    assert found.caught[2].at_most == 1.0
    few, inside = scored(4, 1.0)
    assert summarise(few, inside, 1.0, 0.0).resolvable_fpr is None


def test_guessing_at_random_is_not_flattered_by_the_choice_of_a_threshold():
    """A threshold chosen and judged on the same records would be above one half each time."""
    found = [summarise(*scored(60, 0.0, seed), 1.0, 0.0).balanced_accuracy for seed in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_the_worst_group_is_found_and_poor_ones_are_passed_over():
    scores, members = scored(600, 0.0)
    names = np.tile(["a", "b", "c"], 400)
    scores[(names == "b") & members] += 2.0
    names[:3] = "alone"
    scores[:3] += 50
    found = summarise(scores, members, 1.0, 0.0, {"class": names, "client": np.zeros(1200, dtype=int)}).worst
    assert found["class"].name == "b" and found["class"].area > 0.85
    assert found["client"].name == "0" and found["client"].members == 600
    clients = np.where(members, np.tile(["x", "y"], 600), "")
    found = summarise(scores, members, 1.0, 0.0, {"client": clients}).worst["client"]
    assert (found.members, found.others) == (300, 600)
    assert "client" not in summarise(scores, members, 1.0, 0.0, {"client": np.arange(1200)}).worst


def test_a_summary_fits_in_json():
    text = json.dumps(summarise(*scored(30, 1.0), 2.0, 1e-5, {"class": np.zeros(60)}).to_dict())
    assert json.loads(text)["caught"][2]["precision"]["0.5"] > 0.5


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be \\[N\\]"):
        summarise(np.zeros(3), np.zeros(4, dtype=bool), 1.0, 0.0)
    with pytest.raises(ValueError, match="needs two of each"):
        summarise(np.zeros(3), np.array([True, True, False]), 1.0, 0.0)
