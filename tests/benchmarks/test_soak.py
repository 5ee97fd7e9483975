"""A short version of the soak: a federation of real processes that are killed at random moments."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def soak(load, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())  # put back afterwards, as what follows
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    return load("soak")


def test_kills_hit_every_kind_of_process_and_leave_enough_clients(soak) -> None:
    draw, parties = random.Random(0), ["client-0", "client-1", "client-2", "client-3", "authority"]
    rounds = [soak.draw_kills(draw, parties, 60.0) for _ in range(200)]
    victims = {(kill.party.split("-")[0], kill.inner) for kills in rounds for kill in kills}
    assert victims == {
        *(("server", inner) for inner in (None, "superlink", "leading")),
        *((party, inner) for party in ("client", "authority") for inner in (None, "supernode", "worker")),
    }
    for kills in rounds:
        gone = [kill.party for kill in kills if kill.away is None]
        assert len(gone) <= 1 and all(name.startswith("client") for name in gone)
        assert soak.CLIENTS - len(gone) >= soak.OPTIONS["privacy.min_contributors"]


@pytest.mark.slow
def test_runs_with_kills_come_to_their_end_and_leave_nothing(soak, tmp_path: Path) -> None:
    said: list[str] = []
    found = soak.soak(tmp_path, 3, 1, said.append)
    assert found["all_verified"] and found["ledgers_verify"] and found["kills"] >= 1, said
    assert found["same_processes"] and found["same_ports"] and found["same_temporary"], said
    assert found["processes_after"] == 0, said
