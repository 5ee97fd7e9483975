from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.founding import found
from mosaic_secure.engine import inprocess
from mosaic_secure.server import enrolment, roll

from .faults import Trial, config_of
from .tiny import FINE_TUNED, Outcome, Wire, tiny_train


@dataclass(frozen=True)
class Finished:
    """A tiny run that ended: its directory, its parties, what the command said, and all that was sent."""

    path: Path
    ledgers: Path
    outcome: Outcome
    wire: Wire
    fine_tuned: bool
    masked: bool


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished tiny run with trust local; do not change it."""
    made = _listened(tmp_path_factory.mktemp("finished"))
    assert made.outcome.status == 0, made.outcome.err
    return made


@pytest.fixture(scope="session")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished tiny run with distributed trust and one round of fine-tuning; do not change it."""
    changes = {**FINE_TUNED, "privacy.trust": "distributed"}
    made = _listened(tmp_path_factory.mktemp("distributed"), **changes)
    assert made.outcome.status == 0, made.outcome.err
    return made


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished tiny run with pairwise masks and distributed trust; do not change it."""
    changes = {"privacy.trust": "distributed", "privacy.pairwise_masks": True}
    made = _listened(tmp_path_factory.mktemp("masked"), **changes)
    assert made.outcome.status == 0, made.outcome.err
    return made


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A tiny run stopped after its last stage, before any party was told that it is over."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "finish", stop)
        made = _listened(tmp_path_factory.mktemp("stopped"), **FINE_TUNED)
    assert made.outcome.status == 130, made.outcome.err
    return made


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> FederationDescription:
    """What everybody knows of a federation of four clients."""
    return found(tmp_path_factory.mktemp("founded") / "federation", config_of("local"), "127.0.0.1:8443")


@pytest.fixture
def begun(
    tmp_path: Path, described: FederationDescription, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Trial]:
    """A function that makes a trial of a run of `faults.RUNS`.

    No machine goes down in it, so nothing is flushed to the disk; and nobody waits long for the authority.
    """
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(roll, "_FIRST_PAUSE", 0.01)
    return lambda name, **changes: Trial(tmp_path, config_of(name, **changes), described)


def _listened(place: Path, **changes: Any) -> Finished:
    wire = Wire(place / "ledgers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inprocess, "InProcessGrid", wire.grid)
        outcome = tiny_train(place, **changes)
    return Finished(
        place / "run",
        place / "ledgers",
        outcome,
        wire,
        "fine_tune.rounds" in changes,
        "privacy.pairwise_masks" in changes,
    )
