"""The verdict: what refutes a claim, what does not, and how often an honest run would fail."""

from __future__ import annotations

import numpy as np

from mosaic_secure.audit.server_view import Check
from mosaic_secure.audit.verdict import FAMILY_WISE_ERROR, decide

HOLDS = Check("trust map", True, "10 messages were replayed")
BROKEN = Check("one key", False, "clients were sent 2 public keys")


def test_a_test_refutes_the_claim():
    found = decide(4.0, {"sums": 0.001, "model": 0.4}, [HOLDS])
    assert found.outcome == "fail" and "epsilon 4 is refuted by sums" in found.sentence
    assert found.adjusted == {"sums": 0.002, "model": 0.4}


def test_a_refutation_says_of_what():
    found = decide(10.0, {"sums": 0.9, "noise": 1e-9}, [], {"noise": "The promised noise"})
    assert found.outcome == "fail" and found.sentence.startswith("The promised noise is refuted by noise")
    assert "epsilon" not in found.sentence


def test_what_is_improbable_alone_need_not_be_among_several():
    names = {f"test {n}": 0.5 for n in range(9)}
    assert decide(4.0, {"sums": 0.009}, []).outcome == "fail"
    found = decide(4.0, {"sums": 0.009, **names}, [])
    assert found.outcome == "pass" and "stands" in found.sentence


def test_a_broken_rule_fails_without_any_test():
    found = decide(4.0, {}, [HOLDS, BROKEN])
    assert found.outcome == "fail" and "one key" in found.sentence and "2 public keys" in found.sentence
    assert decide(4.0, {"sums": 1.0}, [HOLDS, BROKEN]).outcome == "fail"


def test_without_a_test_there_is_no_verdict():
    found = decide(4.0, {}, [HOLDS, Check("contributors", None, "no sums")])
    assert found.outcome == "none" and "--retrain" in found.sentence


def test_an_honest_run_fails_in_at_most_one_audit_of_a_hundred():
    """1,000 audits of five tests each; above 25 by chance in less than one of 10,000 seeds."""
    rng = np.random.default_rng(0)
    audits = [dict(enumerate(map(float, row))) for row in rng.random((1000, 5))]
    failed = sum(decide(4.0, {str(k): v for k, v in row.items()}, []).outcome == "fail" for row in audits)
    assert failed <= 25 and FAMILY_WISE_ERROR == 0.01
