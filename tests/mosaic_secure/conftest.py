from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mosaic_secure.engine import inprocess

from .tiny import Outcome, Wire, tiny_train


@dataclass(frozen=True)
class Finished:
    """A finished tiny run: its directory, its parties, what the command said, and all that was sent."""

    path: Path
    ledgers: Path
    outcome: Outcome
    wire: Wire


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished tiny run with trust local; do not change it."""
    place = tmp_path_factory.mktemp("finished")
    wire = Wire(place / "ledgers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inprocess, "InProcessGrid", wire.grid)
        outcome = tiny_train(place)
    assert outcome.status == 0, outcome.err
    return Finished(place / "run", place / "ledgers", outcome, wire)
