from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.statistics import tpr_ceiling

EPSILONS = st.floats(0, 30)
RATES = st.floats(0, 1)
DELTAS = st.floats(0, 1)


@pytest.mark.parametrize(("epsilon", "percent"), [(1, 0.27), (3, 2.0), (4, 5.5)])
def test_known_values_at_one_false_alarm_in_a_thousand(epsilon: float, percent: float) -> None:
    assert 100 * tpr_ceiling(epsilon, 1e-5, 1e-3) == pytest.approx(percent, abs=0.05)


def test_the_second_bound_takes_over_at_large_false_positive_rates() -> None:
    # At fpr = 0.5 the first bound is above 1 and says nothing.
    assert tpr_ceiling(1.0, 0.0, 0.5) == pytest.approx(1 - 0.5 * math.exp(-1))


def test_no_privacy_loss_leaves_only_guessing_and_delta() -> None:
    assert tpr_ceiling(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert tpr_ceiling(0.0, 0.1, 0.3) == pytest.approx(0.4)


def test_without_false_alarms_only_delta_is_left() -> None:
    assert tpr_ceiling(20.0, 1e-5, 0.0) == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("fpr", [0.0, 0.01, 1.0])
def test_an_infinite_epsilon_forbids_nothing(fpr: float) -> None:
    assert tpr_ceiling(math.inf, 1e-5, fpr) == 1.0


def test_enormous_epsilons_do_not_overflow() -> None:
    assert tpr_ceiling(1e6, 0.0, 1e-3) == 1.0
    assert tpr_ceiling(1e6, 0.0, 0.0) == 0.0


@given(EPSILONS, DELTAS, RATES)
def test_the_ceiling_is_a_rate_that_guessing_never_exceeds(epsilon: float, delta: float, fpr: float) -> None:
    assert fpr <= tpr_ceiling(epsilon, delta, fpr) <= 1


@given(st.floats(0, 8), DELTAS, RATES)  # beyond, 1 - tpr has lost its digits
def test_exchanging_the_two_errors_gives_the_same_region(epsilon: float, delta: float, fpr: float) -> None:
    """An attack on the boundary, asked for the opposite answer, trades its two errors and is allowed too."""
    tpr = tpr_ceiling(epsilon, delta, fpr)
    assert tpr_ceiling(epsilon, delta, 1 - tpr) >= 1 - fpr - 1e-9


@given(EPSILONS, EPSILONS, DELTAS, RATES)
def test_a_weaker_guarantee_allows_no_less(first: float, second: float, delta: float, fpr: float) -> None:
    low, high = sorted((first, second))
    assert tpr_ceiling(low, delta, fpr) <= tpr_ceiling(high, delta, fpr) + 1e-12


def test_randomised_response_reaches_the_ceiling_and_never_exceeds_it() -> None:
    """The mechanism that answers truthfully with probability e^eps / (1 + e^eps) is the tight example."""
    epsilon = 1.7
    truthful = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert tpr_ceiling(epsilon, 0.0, 1 - truthful) == pytest.approx(truthful)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-0.1, 0.0, 0.1), "epsilon"),
        ((math.nan, 0.0, 0.1), "epsilon"),
        ((1.0, -1e-9, 0.1), "delta"),
        ((1.0, 1.1, 0.1), "delta"),
        ((1.0, math.nan, 0.1), "delta"),
        ((1.0, 0.0, -0.1), "fpr"),
        ((1.0, 0.0, 1.1), "fpr"),
        ((1.0, 0.0, math.nan), "fpr"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments: tuple[float, float, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        tpr_ceiling(*arguments)
