"""The verdict: what refutes a claim, what does not, and how often an honest run would fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attacks.onerun import Guesses
from mosaic_secure.audit.canary_tests import (
    FAMILY_WISE_ERROR,
    MODEL,
    NOISE,
    SUMS,
    TRAINING,
    WEIGHTS,
    CanaryTest,
    against_epsilon,
    against_noise,
    can_refute,
)
from mosaic_secure.audit.server_view import Check
from mosaic_secure.audit.verdict import decide

HOLDS = Check("trust map", True, "10 messages were replayed")
BROKEN = Check("one key", False, "clients were sent 2 public keys")


def made(name: str, chance: float, *, counts: bool = True, of: str = "The claim of epsilon 4") -> CanaryTest:
    return CanaryTest(name, of, Guesses(10, 5, 4), 4.0, 1e-5, chance, counts, 0.1, 2.0)


def test_a_test_refutes_the_claim():
    found = decide(4.0, [made(SUMS, 0.001), made(MODEL, 0.4)], [HOLDS])
    assert found.outcome == "fail" and f"epsilon 4 is refuted by {SUMS}" in found.sentence
    assert found.adjusted[SUMS] == pytest.approx(0.0011)  # its weight is 10 of 11


def test_a_refutation_says_of_what():
    found = decide(10.0, [made(SUMS, 0.9), made(NOISE, 1e-9, of="The promised noise")], [])
    assert found.outcome == "fail" and found.sentence.startswith("The promised noise is refuted by")
    assert "epsilon" not in found.sentence


def test_what_is_improbable_alone_need_not_be_among_several():
    assert decide(4.0, [made(MODEL, 0.009)], []).outcome == "fail"
    found = decide(4.0, [made(MODEL, 0.009), *(made(name, 0.5) for name in WEIGHTS if name != MODEL)], [])
    assert found.outcome == "pass" and "stands" in found.sentence


def test_a_broken_rule_fails_without_any_test():
    found = decide(4.0, [], [HOLDS, BROKEN])
    assert found.outcome == "fail" and "one key" in found.sentence and "2 public keys" in found.sentence
    assert decide(4.0, [made(SUMS, 1.0)], [HOLDS, BROKEN]).outcome == "fail"


def test_without_a_test_there_is_no_verdict():
    found = decide(4.0, [], [HOLDS, Check("contributors", None, "no sums")])
    assert found.outcome == "none" and "--retrain" in found.sentence
    poor = decide(4.0, [made(SUMS, 0.0, counts=False)], [HOLDS])
    assert poor.outcome == "none" and "so few canaries" in poor.sentence and poor.adjusted == {}
    assert "--retrain" not in decide(4.0, [], [HOLDS], can_retrain=False).sentence


def test_what_tests_something_else_does_not_make_the_claim_stand():
    """The noise of the sums and one training were tested, and neither could have refuted epsilon 10."""
    noise = replace(made(NOISE, 0.5), epsilon=None)
    training = replace(made(TRAINING, 0.5), epsilon=1.5)
    found = decide(10.0, [noise, training, made(SUMS, 0.5, counts=False)], [HOLDS])
    assert found.outcome == "none" and "cannot refute epsilon 10" in found.sentence
    assert NOISE in found.sentence and TRAINING in found.sentence
    stands = decide(4.0, [noise, training, made(SUMS, 0.5)], [HOLDS])
    assert stands.outcome == "pass" and f"by {SUMS}, and stands" in stands.sentence


def test_noise_that_follows_from_a_seed_gives_no_pass():
    found = decide(4.0, [made(SUMS, 0.5)], [HOLDS], secure=False)
    assert found.outcome == "none" and "follows from its seed" in found.sentence
    assert decide(4.0, [made(SUMS, 1e-6)], [HOLDS], secure=False).outcome == "fail"


def test_no_bound_above_the_claim_passes():
    """Training whose own promise is larger than the claim is held against the claim."""
    scores, included = np.arange(500.0), np.arange(500) >= 250
    found = against_epsilon(TRAINING, "The claim of epsilon 0.5", scores, included, 0.5, 1e-5)
    assert found.lower_bound > 0.5 and decide(0.5, [found], [HOLDS]).outcome == "fail"


def test_an_honest_run_fails_in_at_most_one_audit_of_a_hundred():
    """1,000 audits of all tests; above 25 by chance in less than one of 10,000 seeds."""
    rng = np.random.default_rng(0)
    audits = [[made(name, float(rng.random())) for name in WEIGHTS] for _ in range(1000)]
    assert sum(decide(4.0, tests, []).outcome == "fail" for tests in audits) <= 25
    assert FAMILY_WISE_ERROR == 0.01 and sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_bounds_and_p_values_agree():
    """All guesses right: a test counts for every epsilon below what it can prove, and for none above."""
    scores, included = np.arange(100.0), np.arange(100) >= 50
    found = against_epsilon(SUMS, "The claim", scores, included, 1.0, 1e-5)
    assert found.guesses == Guesses(100, 80, 80) and found.lower_bound == found.provable > 1
    assert can_refute(SUMS, 100, found.provable - 0.01, 1e-5)
    assert not can_refute(SUMS, 100, found.provable + 0.01, 1e-5)
    assert not can_refute(SUMS, 100, float("inf"), 1e-5)


def test_where_nothing_was_promised_nothing_is_tested():
    scores, included = np.arange(500.0), np.arange(500) >= 250
    for found in (
        against_noise(NOISE, "The noise", scores, included, float("inf")),
        against_epsilon(SUMS, "The guarantee", scores, included, float("inf"), 1e-5),
    ):
        assert not found.counts and found.chance == 1.0
    real = against_noise(NOISE, "The noise", scores, included, 0.5)
    assert real.counts and real.chance < 1e-4 and real.lower_bound is None
