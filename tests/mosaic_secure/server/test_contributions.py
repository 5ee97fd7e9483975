"""Contributions at the server: asked for, kept and sent on some at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.server import contributions, prototypes, rounds
from mosaic_secure.server.contributions import in_parts
from privacy.secagg.spool import Spool

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
    return (place / "run" / "global_model.safetensors").read_bytes(), [line["message"] for line in lines]


def test_one_contribution_at_a_time_gives_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    together, messages = run(tmp_path / "together")
    monkeypatch.setattr(contributions, "PART_BYTES", 1)
    apart, more = run(tmp_path / "apart")
    assert apart == together
    assert more.count("ContributeRequest") == 3 * messages.count("ContributeRequest") > 0
    assert more.count("DecryptRequest") == messages.count("DecryptRequest")


def test_what_was_set_aside_is_gone_when_the_round_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Looked at where the server has just learnt from a decrypted sum, and again after it stopped there."""
    seen: list[tuple[list[Path], list[Path]]] = []

    def look_and_stop(*_: object) -> None:
        seen.append(set_aside(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(prototypes, "take_moments", look_and_stop)
    assert tiny_train(tmp_path, "--epsilon", "inf").status == 130
    assert seen == [([], [])] and set_aside(tmp_path) == ([], [])


def test_a_round_that_fails_leaves_nothing_at_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rounds, "sum_contributions", lambda *_: [b"another sum"])
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert "the authority's sum is not over these contributions" in outcome.refusal
    assert set_aside(tmp_path) == ([], [])


def set_aside(place: Path) -> tuple[list[Path], list[Path]]:
    """Contributions on the disks of server and authority."""
    names = "[0-9a-f]" * 64
    return list((place / "run").rglob(f"*.scratch/{names}")), list((place / "ledgers").rglob(names))


def test_contributions_are_set_aside_where_that_test_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, seen = rounds.sum_contributions, []

    def look(*arguments: object) -> list[bytes]:
        seen.append([len(paths) for paths in set_aside(tmp_path)])
        return real(*arguments)

    monkeypatch.setattr(rounds, "sum_contributions", look)
    monkeypatch.setattr(Spool, "clear", lambda _: None)
    assert tiny_train(tmp_path, "--epsilon", "inf").status == 0
    assert seen[0] == [3, 3]
