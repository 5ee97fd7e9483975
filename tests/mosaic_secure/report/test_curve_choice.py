"""Choices from tables that were made by hand."""

from __future__ import annotations

import math

import pytest

from mosaic_secure.report.curve.choice import Candidate, choose
from mosaic_secure.report.curve.request import Wanted

TABLE = [
    Candidate(1.0, 0.80, 0.74, 0.027),
    Candidate(2.0, 0.90, 0.86, 0.074),
    Candidate(4.0, 0.95, 0.91, 0.544),
    Candidate(8.0, 0.94, 0.93, 0.990),
    Candidate(math.inf, 0.99, 0.98, 1.0),
]


def test_an_audit_that_found_little_is_told_beside_what_the_guarantee_allows():
    table = [Candidate(8.0, 0.94, 0.93, 0.03, 0.9997, audited=True)]
    made = choose(table, Wanted(max_tpr=0.05))
    assert made.epsilon == 8 and "the guarantee itself allows 100 %" in made.reason


def test_an_interval_is_not_rounded_up_to_the_goal():
    made = choose([Candidate(4.0, 0.93, 0.89996, 0.5)], Wanted(min_accuracy=0.9))
    assert made.epsilon is None and "an interval from 89.9 %" in made.reason


@pytest.mark.parametrize(
    ("wanted", "epsilon", "said"),
    [
        (
            Wanted(min_accuracy=0.90),
            4.0,
            "smallest of this sweep whose whole 95 % accuracy interval, from 91 %",
        ),
        (Wanted(min_accuracy=0.86), 2.0, "at 86 % or above"),
        (Wanted(min_accuracy=0.92), 8.0, "Epsilon 8"),
        (Wanted(min_accuracy=0.97), None, "epsilon 8 comes nearest, with an interval from 93 %"),
        (Wanted(min_accuracy=0.90, max_tpr=0.1), None, "with at most 10 % of members caught"),
        (Wanted(max_epsilon=3), 2.0, "best mean accuracy, 90 %, of those with epsilon at most 3"),
        (Wanted(max_epsilon=100), 4.0, "95 %"),
        (Wanted(max_tpr=0.05), 1.0, "up to 2.7 % caught: the ceiling of the guarantee"),
        (Wanted(max_tpr=0.6, max_epsilon=3), 2.0, "epsilon at most 3 and at most 60 %"),
        (Wanted(max_tpr=0.01), None, "the least is 2.7 % at epsilon 1"),
        (Wanted(max_epsilon=0.5), None, "the smallest is 1"),
    ],
)
def test_the_rule_by_hand(wanted: Wanted, epsilon: float | None, said: str):
    choice = choose(TABLE, wanted)
    assert choice.epsilon == epsilon and said in choice.reason
    assert choice.reason.endswith(".") and choice.reason.count(". ") == 0


def test_without_noise_nothing_is_chosen():
    assert choose(TABLE[-1:], Wanted(min_accuracy=0.5)).epsilon is None
    assert "without noise" in choose(TABLE[-1:], Wanted(max_epsilon=9)).reason


def test_equal_accuracies_fall_to_the_smaller_epsilon():
    assert choose([Candidate(e, 0.9, 0.8, 0.1) for e in (4.0, 2.0)], Wanted(max_epsilon=9)).epsilon == 2.0


def test_a_point_without_an_interval_meets_no_goal():
    choice = choose([Candidate(4.0, 0.99, None, 0.1)], Wanted(min_accuracy=0.5))
    assert choice.epsilon is None and "no interval" in choice.reason


def test_a_point_without_an_accuracy_is_not_chosen():
    choice = choose([Candidate(4.0, None, None, 0.1)], Wanted(max_tpr=0.5))
    assert choice.epsilon is None and "has reported an accuracy" in choice.reason
