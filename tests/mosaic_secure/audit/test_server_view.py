"""What the server saw: an honest run passes every check, and each forgery fails the one made for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.audit.server_view import Check, check_server_view
from mosaic_secure.errors import UserError
from mosaic_secure.runs.directory import RunDirectory

from ..tiny import tiny_train

Line = dict[str, Any]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("seen")
    assert (
        tiny_train(
            place, "--epsilon", "inf", **{"prototypes.rounds": 2, "prototypes.gradient_share": 0.4}
        ).status
        == 0
    )
    return place / "run"


def checks(run: Path, others: tuple[Path, ...] = ()) -> dict[str, Check]:
    return {check.name: check for check in check_server_view(RunDirectory.open(run), others)}


def forged(sealed: Path, place: Path, forge: Callable[[list[Line]], list[Line]]) -> Path:
    """A copy of the run with another message log."""
    copy = place / "forged"
    shutil.copytree(sealed, copy)
    lines = [json.loads(line) for line in (copy / "messages.jsonl").read_text().splitlines()]
    (copy / "messages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in forge(lines)))
    return copy


def test_an_honest_run_passes(sealed: Path):
    found = checks(sealed)
    assert {name: check.passed for name, check in found.items()} == {
        "trust map": True,
        "contributors": True,
        "one sum a round": True,
        "one key": True,
        "key of its own": None,
        "ledger entries": True,
        "planned releases": True,
    }
    assert (
        "4 sums were decrypted, each over contributions of at least 3 clients" in found["contributors"].found
    )
    assert "12 contributions reached the server" in found["ledger entries"].found


def of(lines: list[Line], message: str) -> list[Line]:
    return [line for line in lines if line.get("message") == message]


def field(line: Line, name: str) -> Line:
    return next(item for item in line["fields"] if item["name"] == name)


def leak(lines: list[Line]) -> list[Line]:
    of(lines, "DecryptReply")[0]["dst_role"] = "client"
    return lines


def too_few(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.get("message") != "PrototypeReply" or line["src"] == "client-0"]


def twice(lines: list[Line]) -> list[Line]:
    again = json.loads(json.dumps(of(lines, "DecryptReply")[0]))
    field(again, "values")["sha256"] = "0" * 64
    return [*lines, again]


def other_key(lines: list[Line]) -> list[Line]:
    field(of(lines, "PrototypeRequest")[0], "public_context")["sha256"] = "0" * 64
    return lines


def unknown(lines: list[Line]) -> list[Line]:
    field(of(lines, "PrototypeReply")[0], "contribution")["sha256"] = "0" * 64
    return lines


@pytest.mark.parametrize(
    ("forge", "name", "says"),
    [
        (leak, "trust map", "must not"),
        (too_few, "contributors", "has fewer"),
        (twice, "one sum a round", "decrypted to 2 sums"),
        (other_key, "one key", "2 public keys"),
        (unknown, "ledger entries", "1 of them are in no ledger"),
    ],
)
def test_a_forgery_fails_its_check(sealed: Path, tmp_path: Path, forge: Callable, name: str, says: str):
    found = checks(forged(sealed, tmp_path, forge))[name]
    assert found.passed is False and says in found.found


def test_a_key_that_serves_two_runs_is_found(sealed: Path, tmp_path: Path):
    copy = forged(sealed, tmp_path, list)
    found = checks(sealed, (sealed, copy, tmp_path))["key of its own"]
    assert found.passed is False and "run forged has the same key" in found.found
    fresh = forged(
        sealed, tmp_path / "fresh", lambda lines: [line for line in lines if line.get("message") == "-"]
    )
    assert checks(sealed, (fresh,))["key of its own"].passed is True


def test_a_release_beyond_the_plan_is_found(sealed: Path, monkeypatch: pytest.MonkeyPatch):
    real = RunDirectory.read_json

    def more(self: RunDirectory, name: str) -> dict[str, Any]:
        content = real(self, name)
        if name == "ledgers.json":
            releases = content["excerpts"]["client-2"]["releases"]
            releases.append({**releases[0], "release": "gradient", "round": 2})
        return content

    monkeypatch.setattr(RunDirectory, "read_json", more)
    found = checks(sealed)["planned releases"]
    assert found.passed is False and "client-2 made release gradient, round 2" in found.found


def test_what_cannot_be_read_is_refused(sealed: Path, tmp_path: Path):
    broken = forged(sealed, tmp_path, list)
    (broken / "messages.jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a message log"):
        checks(broken)
    with RunDirectory.create(tmp_path / "open") as run, pytest.raises(UserError, match="not sealed"):
        check_server_view(run)
