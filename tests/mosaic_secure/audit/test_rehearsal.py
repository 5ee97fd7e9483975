"""A whole run with canaries: without noise the claim falls, with it the claim stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.audit.canary_tests import (
    CLASSIFIERS,
    MODEL,
    NOISE,
    SUMS,
    SYNTHETIC,
    TRAINING,
    CanaryTest,
)
from mosaic_secure.audit.rehearsal import Rehearsal, rehearse
from mosaic_secure.errors import UserError
from privacy.randomness import NoiseSource

from ..tiny import tiny_config

CODES = {
    "prototypes__dim": 144,
    "prototypes__image_size": 8,
    "prototypes__rounds": 3,
    "prototypes__gradient_share": 0.5,
}


WITHOUT = {
    "experts__prototype_expert": False,
    "global_model__architecture": "mlp",
    "privacy__shares__prototypes": 0,
    "privacy__shares__counts": 0.1,
    "privacy__shares__classifier": 0.5,
    "privacy__shares__generator": 0.4,
}


def rehearsed(place: Path, epsilon: float | str, canaries: int = 500, **changes: Any) -> Rehearsal:
    fields = {"privacy__epsilon": epsilon, "privacy__insecure_reproducible_noise": True, **CODES, **changes}
    places = {"out": place / "run", "ledger_dir": place / "ledgers"}
    return rehearse(tiny_config(**fields), **places, canaries=canaries, claim=4.0, seed=1)


def by_name(found: Rehearsal) -> dict[str, CanaryTest]:
    return {test.name: test for test in found.tests}


def test_a_run_without_noise_refutes_its_claim(tmp_path: Path):
    """All of 400 guesses are right, so that epsilon 4 falls at one in two hundred."""
    found = rehearsed(tmp_path, "inf")
    tests = by_name(found)
    assert tests[SUMS].guesses.correct == tests[SUMS].guesses.made == 400
    assert found.rounds == 5  # centre, moments, three gradients
    assert tests[SUMS].counts and tests[SUMS].chance < 0.005 and found.lower_bound > 4.0
    assert NOISE not in tests and not tests[TRAINING].counts  # nothing was promised there
    assert not list(tmp_path.rglob("planted*"))  # forgotten with the run


def test_an_honest_run_stands(tmp_path: Path):
    found = rehearsed(tmp_path, 4.0)
    tests = by_name(found)
    assert set(tests) == {SUMS, NOISE, TRAINING, CLASSIFIERS, MODEL, SYNTHETIC}
    assert tests[SUMS].chance > 0.05 and found.lower_bound < 4.0 <= found.provable
    assert tests[SUMS].guesses.correct > 200  # and yet something is seen: the attack is at work
    assert tests[NOISE].chance > 0.01 and tests[NOISE].guesses.made == 124
    assert tests[TRAINING].epsilon < 4.0 and tests[TRAINING].chance > 0.001
    assert tests[MODEL].guesses.canaries == 360  # as many as the public test part has
    assert [check.passed for check in found.checks] == [True, True]


@pytest.mark.slow
def test_whole_records_are_found_where_nothing_hides_them(tmp_path: Path):
    """Classifiers trained long and without noise learn wrong labels by heart: about nine of ten guesses are
    right. Half and half would give so many in less than one of a million runs."""
    found = rehearsed(tmp_path, "inf", classifier__steps=150, classifier__sample_rate=0.5)
    told = by_name(found)[CLASSIFIERS].guesses
    assert told.made == 90 and told.correct >= 70


@pytest.mark.slow
def test_a_run_with_a_tenth_of_its_noise_is_found_by_its_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The mutation: clients draw less noise than the plan says. Epsilon 4 itself is not refuted by that."""
    real = NoiseSource.discrete_gaussian
    monkeypatch.setattr(NoiseSource, "discrete_gaussian", lambda self, sigma, n: real(self, sigma / 10, n))
    found = rehearsed(tmp_path, 4.0)
    assert by_name(found)[NOISE].chance < 0.001


def test_too_few_canaries_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="must be 2 or more"):
        rehearsed(tmp_path, 4.0, canaries=1)
    assert not list(tmp_path.iterdir())


def test_a_method_without_prototypes_is_refused(tmp_path: Path):
    config = tiny_config(prototypes__enabled=False, **WITHOUT)
    with pytest.raises(UserError, match="prototypes: the run has none"):
        rehearse(config, out=tmp_path / "r", ledger_dir=tmp_path, canaries=4, claim=1, seed=0)


def test_a_witness_needs_the_engine_that_lets_it_look(tmp_path: Path):
    pytest.importorskip("ray")
    config = tiny_config(engine__name="simulation", engine__workers=1, **CODES)
    with pytest.raises(UserError, match="must run in engine 'inprocess'"):
        rehearse(config, out=tmp_path / "r", ledger_dir=tmp_path, canaries=4, claim=1, seed=0)


def test_an_audit_takes_pairwise_masks_off_the_sums_as_the_server_does(tmp_path: Path):
    """Otherwise sums would be uniform and tell of no canary: 400 right guesses by chance, one in 2^400."""
    found = rehearsed(tmp_path, "inf", privacy__pairwise_masks=True, prototypes__rounds=1)
    assert by_name(found)[SUMS].guesses.correct == by_name(found)[SUMS].guesses.made == 400
