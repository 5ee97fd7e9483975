"""How a run ends: what the ledgers of its clients must list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.server import enrolment

from ..tiny import CLIENTS, FINE_TUNED, SAMPLED, tiny_train

ROUNDS = {"prototypes.rounds": 2, "prototypes.gradient_share": 0.3}
RUNS: list[dict[str, Any]] = [
    {**FINE_TUNED, **ROUNDS, "classifier.rounds": 2},
    SAMPLED,
    {"method": "fedavg", "fine_tune.rounds": 2, "fine_tune.steps": 2},
    {
        "method": "dense",
        "dense.rounds": 2,
        "dense.generator_steps": 2,
        "dense.batch": 16,
        "dense.latent_dim": 4,
    },
]


@pytest.mark.parametrize("changes", RUNS, ids=["everything", "sampled", "fedavg", "dense"])
def test_a_ledger_must_list_all_that_the_run_has_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    """Which is all that a client has released, where nothing went wrong: no more and no less."""
    found: list[Any] = []
    real = enrolment._used
    monkeypatch.setattr(enrolment, "_used", lambda *given: found.append(real(*given)) or found[-1])
    outcome = tiny_train(tmp_path, "--epsilon", "inf", **changes)
    assert outcome.status == 0, outcome.err
    ledgers = json.loads((tmp_path / "run" / "ledgers.json").read_bytes())["excerpts"]
    listed = {
        client: {(release["release"], release["round"]) for release in excerpt["releases"]}
        for client, excerpt in ledgers.items()
    }
    (used,) = found
    assert dict(used) == listed and set(listed) == set(CLIENTS)
    assert all(("counts", 0) in releases for releases in listed.values())
