"""A whole run with canaries: without noise the claim falls, with it the claim stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def rehearsed(place: Path, epsilon: float | str, **changes: Any) -> Rehearsal:
    numbers = {"canaries": 400, "each_side": 180, "claim": 4.0, "seed": 1} | changes
    config = tiny_config(privacy__epsilon=epsilon, privacy__insecure_reproducible_noise=True, **CODES)
    return rehearse(config, out=place / "run", ledger_dir=place / "ledgers", **numbers)


def test_a_run_without_noise_refutes_its_claim(tmp_path: Path):
    """All of 360 guesses are right, so that epsilon 4 falls at one in a hundred."""
    found = rehearsed(tmp_path, "inf", confidence=0.99)
    assert found.guesses.correct == found.guesses.made == 360
    assert found.rounds == 5  # centre, moments, three gradients
    assert found.chance < 0.01 and found.lower_bound > 4.0
    assert not list(tmp_path.rglob("planted*"))  # forgotten with the run


def test_an_honest_run_stands(tmp_path: Path):
    found = rehearsed(tmp_path, 4.0)
    assert found.chance > 0.05 and found.lower_bound < 4.0
    assert found.guesses.correct > 180  # and yet something is seen: the attack is at work
    assert found.noise_chance > 0.01 and found.noise_guesses.made == 100


@pytest.mark.slow
def test_a_run_with_a_tenth_of_its_noise_is_found_by_its_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The mutation: clients draw less noise than the plan says. Epsilon 4 itself is not refuted by that."""
    real = NoiseSource.discrete_gaussian
    monkeypatch.setattr(NoiseSource, "discrete_gaussian", lambda self, sigma, n: real(self, sigma / 10, n))
    found = rehearsed(tmp_path, 4.0)
    assert found.noise_chance < 0.001


@pytest.mark.parametrize("change", [{"each_side": 0}, {"each_side": 201}])
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, int]):
    with pytest.raises(UserError, match="from 1 to 200"):
        rehearsed(tmp_path, 4.0, **change)
    assert not list(tmp_path.iterdir())


def test_a_method_without_prototypes_is_refused(tmp_path: Path):
    config = tiny_config(prototypes__enabled=False, **WITHOUT)
    with pytest.raises(UserError, match="prototypes: the run has none"):
        rehearse(config, out=tmp_path / "r", ledger_dir=tmp_path, canaries=4, each_side=1, claim=1, seed=0)


def test_a_witness_needs_the_engine_that_lets_it_look(tmp_path: Path):
    pytest.importorskip("ray")
    config = tiny_config(engine__name="simulation", engine__workers=1, **CODES)
    with pytest.raises(UserError, match="must run in engine 'inprocess'"):
        rehearse(config, out=tmp_path / "r", ledger_dir=tmp_path, canaries=4, each_side=1, claim=1, seed=0)
