from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.engine import inprocess
from mosaic_secure.server import enrolment

from .tiny import FINE_TUNED, Outcome, Wire, tiny_train


@dataclass(frozen=True)
class Finished:
    """A tiny run that ended: its directory, its parties, what the command said, and all that was sent."""

    path: Path
    ledgers: Path
    outcome: Outcome
    wire: Wire
    fine_tuned: bool


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
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A tiny run stopped after its last stage, before any party was told that it is over."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "finish", stop)
        made = _listened(tmp_path_factory.mktemp("stopped"), **FINE_TUNED)
    assert made.outcome.status == 130, made.outcome.err
    return made


def _listened(place: Path, **changes: Any) -> Finished:
    wire = Wire(place / "ledgers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inprocess, "InProcessGrid", wire.grid)
        outcome = tiny_train(place, **changes)
    return Finished(place / "run", place / "ledgers", outcome, wire, "fine_tune.rounds" in changes)
