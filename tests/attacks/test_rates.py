"""Rates and intervals against independent computations, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from attacks.rates import (
    Rate,
    Roc,
    adjusted,
    area,
    binomial_interval,
    catch_rate,
    precision,
    resolvable,
)

SCORES = arrays.arrays(np.float64, st.integers(1, 40), elements=st.integers(-5, 5).map(float))


@settings(deadline=None)
@given(SCORES, SCORES)
def test_curve_and_area_are_those_of_scikit_learn(members: np.ndarray, others: np.ndarray):
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = np.concatenate([members, others])
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    curve = Roc.of(members, others)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    value, interval = area(members, others)
    assert value == pytest.approx(roc_auc_score(labels, scores))
    assert 0 <= interval.low <= value <= interval.high <= 1


@settings(deadline=None)
@given(SCORES, SCORES, st.floats(0, 1))
def test_a_threshold_keeps_its_false_positive_rate_and_none_laxer_does(
    members: np.ndarray, others: np.ndarray, fpr: float
):
    curve = Roc.of(members, others)
    place = curve.at(fpr)
    assert curve.fpr[place] <= fpr + 1e-9
    assert place + 1 == len(curve.fpr) or curve.fpr[place + 1] > fpr
    rate = catch_rate(members, others, fpr)
    assert (rate is None) != resolvable(len(others), fpr)
    if rate is not None:
        assert rate.value == curve.tpr[place]
    best = curve.best()
    assert np.all(curve.tpr - curve.fpr <= curve.tpr[best] - curve.fpr[best])


def test_infinite_scores_have_their_place():
    members, others = np.array([np.inf, np.inf, 1.0]), np.array([-np.inf, 0.0, np.inf])
    curve = Roc.of(members, others)
    assert list(curve.caught) == [0, 2, 3, 3, 3] and list(curve.false_alarms) == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (3, 50), (999, 1000)])
def test_the_binomial_interval_is_scipys(hits: int, trials: int):
    known = stats.binomtest(hits, trials).proportion_ci(0.9, method="exact")
    found = binomial_interval(hits, trials, 0.9)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert Rate.of(hits, trials).value == hits / trials


def test_the_area_lies_in_its_interval_as_often_as_promised():
    """95 % of 500 draws of 60 members and 90 others; below 455 by chance once in 5,000 seeds."""
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    held = 0
    for _ in range(500):
        _, interval = area(rng.normal(1, 1, 60), rng.normal(0, 1, 90))
        held += interval.low <= truth <= interval.high
    assert held >= 455


def test_scores_that_are_all_apart_leave_room_for_doubt():
    value, interval = area(np.arange(10.0) + 20, np.arange(30.0) - 20)
    assert value == 1.0 and interval.high == 1.0 and 0.6 < interval.low < 0.8
    assert area(np.array([1.0]), np.arange(30.0))[1].low == 0.0


def test_what_false_positive_rates_can_be_told():
    assert resolvable(1000, 0.001) and not resolvable(999, 0.001)
    assert catch_rate(np.ones(5), np.zeros(99), 0.01) is None
    assert catch_rate(np.ones(5), np.zeros(100), 0.01).value == 1.0


def test_what_an_alarm_means_depends_on_how_many_members_there_are():
    assert precision(0.1, 0.01, 0.5) == pytest.approx(10 / 11)
    assert precision(0.1, 0.01, 0.01) == pytest.approx(0.1 * 0.01 / (0.1 * 0.01 + 0.01 * 0.99))
    assert precision(0.0, 0.0, 0.5) is None


def test_holms_adjustment():
    found = adjusted({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06, "d": 0.02})
    assert adjusted({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_holms_adjustment_with_weights():
    """The heavy test needs half as much evidence as with equal weights; what is left goes to the other."""
    assert adjusted({"a": 0.004, "b": 0.5}, {"a": 3.0, "b": 1.0}) == pytest.approx({"a": 0.016 / 3, "b": 0.5})
    assert adjusted({"a": 0.02, "b": 0.02}, {"a": 1.0, "b": 1.0}) == adjusted({"a": 0.02, "b": 0.02})


def test_holm_errs_in_one_family_of_a_hundred():
    """20 true hypotheses, all of one and the same draw or all of their own; above 30 of 1,000 by chance in
    less than one of a million seeds."""
    rng = np.random.default_rng(2)
    for shared in (False, True):
        families = rng.random((1000, 1 if shared else 20)) * np.ones(20)
        for weights in (None, {number: 1.0 + 5 * (number == 3) for number in range(20)}):
            rows = (adjusted(dict(enumerate(map(float, family))), weights) for family in families)
            assert sum(min(row.values()) <= 0.01 for row in rows) <= 30


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan])])
def test_scores_that_are_none_are_refused(bad: np.ndarray):
    for call in (Roc.of, area):
        with pytest.raises(ValueError, match="scores of others"):
            call(np.ones(3), bad)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="6 of 5"):
        binomial_interval(6, 5)
    with pytest.raises(ValueError, match="confidence"):
        binomial_interval(1, 5, 1.0)
    with pytest.raises(ValueError, match="prior"):
        precision(0.1, 0.1, 2.0)
    with pytest.raises(ValueError, match="x: p-value must be in"):
        adjusted({"x": 1.5})
    with pytest.raises(ValueError, match="weight above 0; got 0.5, 0.0"):
        adjusted({"x": 0.5}, {"x": 0.0})
