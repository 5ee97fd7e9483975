"""Contributions at the server: asked for, kept and sent on some at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.server import contributions
from mosaic_secure.server.contributions import in_parts

from ..tiny import tiny_train


@given(st.lists(st.integers(), max_size=60), st.integers(0, 2**30))
def test_parts_hold_everything_in_order_and_fit(items: list[int], bytes_each: int):
    parts = list(in_parts(items, bytes_each))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == 1 or len(part) * bytes_each <= contributions.PART_BYTES for part in parts)
    assert all(parts)


def run(place: Path) -> tuple[bytes, list[str]]:
    """The global model, and the message of every line of the log."""
    changes = {"privacy.insecure_reproducible_noise": True, "privacy.min_contributors": 3}
    outcome = tiny_train(place, "--epsilon", "4", **changes)
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (place / "run" / "messages.jsonl").read_text().splitlines()]
    assert not list((place / "run").rglob("*.scratch"))
    assert not [path for path in (place / "ledgers").rglob("received/*/*") if path.is_file()]
    return (place / "run" / "global_model.safetensors").read_bytes(), [line["message"] for line in lines]


def test_one_contribution_at_a_time_gives_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    together, messages = run(tmp_path / "together")
    monkeypatch.setattr(contributions, "PART_BYTES", 1)
    apart, more = run(tmp_path / "apart")
    assert apart == together
    assert more.count("ContributeRequest") == 3 * messages.count("ContributeRequest") > 0
    assert more.count("DecryptRequest") == messages.count("DecryptRequest")
