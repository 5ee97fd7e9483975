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
from mosaic_secure.runs import manifest
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
    """A copy of the run with another message log, sealed anew by the server that forged it."""
    copy = place / "forged"
    shutil.copytree(sealed, copy)
    lines = [json.loads(line) for line in (copy / "messages.jsonl").read_text().splitlines()]
    (copy / "messages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in forge(lines)))
    record = manifest.read(copy)
    for name in ("files", "digest", "schema_version"):
        del record[name]
    manifest.write(copy, record)
    return copy


def test_an_honest_run_passes(sealed: Path):
    found = checks(sealed)
    assert {name: check.passed for name, check in found.items()} == {
        "trust map": True,
        "contributors": True,
        "one sum a round": True,
        "one key": True,
        "key of its own": None,
        "signed ledgers": True,
        "ledger entries": True,
        "planned releases": True,
    }
    assert (
        "4 sums were decrypted, each over contributions of at least 3 clients" in found["contributors"].found
    )
    assert "12 contributions entered sums" in found["ledger entries"].found


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
    assert checks(sealed, (sealed, copy))["key of its own"].passed is None  # a copy is no other run
    content = json.loads((copy / "manifest.json").read_text())
    for name in ("files", "digest", "schema_version"):
        del content[name]
    manifest.write(copy, {**content, "run_id": "0" * 16})
    found = checks(sealed, (sealed, copy))["key of its own"]
    assert found.passed is False and "run forged has the same key" in found.found
    fresh = tmp_path / "fresh"
    with RunDirectory.create(fresh):
        (fresh / "messages.jsonl").write_text("")
    assert checks(sealed, (fresh,))["key of its own"].passed is True


def test_what_lies_beside_a_run_does_not_stop_its_audit(sealed: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with RunDirectory.create(tmp_path / "begun"):
        (tmp_path / "begun" / "messages.jsonl").write_text('{"schema_')
        found = checks(sealed, tuple(tmp_path.iterdir()))
    assert found["key of its own"].passed is None


def altered(monkeypatch: pytest.MonkeyPatch, alter: Callable[[dict[str, Any]], None]) -> None:
    """Have ledgers.json say something else."""
    real = RunDirectory.read_json

    def read(self: RunDirectory, name: str) -> dict[str, Any]:
        content = real(self, name)
        if name == "ledgers.json":
            alter(content["excerpts"])
        return content

    monkeypatch.setattr(RunDirectory, "read_json", read)


@pytest.mark.parametrize(
    ("alter", "name", "says"),
    [
        (
            lambda e: e["client-1"].update(signature="00" * 64),
            "signed ledgers",
            "client-1 is not what its owner",
        ),
        (
            lambda e: e["client-1"].update(charged_epsilon=0.1),
            "signed ledgers",
            "client-1 is not what its owner",
        ),
        (lambda e: e.update({"client-1": e["client-0"]}), "signed ledgers", "another run or client"),
        (lambda e: e.pop("client-2"), "ledger entries", "4 of them are in no ledger"),
    ],
)
def test_an_altered_ledger_fails_its_check(sealed: Path, monkeypatch, alter: Callable, name: str, says: str):
    altered(monkeypatch, alter)
    found = checks(sealed)[name]
    assert found.passed is False and says in found.found


def test_a_contribution_that_was_left_out_is_no_fault(sealed: Path, monkeypatch: pytest.MonkeyPatch):
    """A client whose contribution was damaged on the way loses its round; the run has broken no rule."""
    real = RunDirectory.read_bytes

    def read(self: RunDirectory, name: str) -> bytes:
        data = real(self, name)
        if name == "metrics.jsonl":
            row = {"metric": "left out", "of": "client-1", "on": "gradient-0", "value": "bad-body"}
            return data + json.dumps(row).encode() + b"\n"
        if name == "messages.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            for line in of(lines, "PrototypeReply"):
                if (line["src"], line["stage"]) == ("client-1", "gradient-0"):
                    field(line, "contribution")["sha256"] = "0" * 64
            return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return data

    monkeypatch.setattr(RunDirectory, "read_bytes", read)
    found = checks(sealed)
    assert found["ledger entries"].passed and "11 contributions" in found["ledger entries"].found
    assert found["contributors"].passed and "at least 2 clients" in found["contributors"].found


def test_a_release_beyond_the_plan_is_found(sealed: Path, monkeypatch: pytest.MonkeyPatch):
    def more(excerpts: dict[str, Any]) -> None:
        releases = excerpts["client-2"]["releases"]
        releases.append({**releases[0], "release": "gradient", "round": 2})

    altered(monkeypatch, more)
    found = checks(sealed)["planned releases"]
    assert found.passed is False and "client-2 made release gradient, round 2" in found.found


def test_what_cannot_be_read_is_refused(sealed: Path, tmp_path: Path):
    def other_version(lines: list[Line]) -> list[Line]:
        return [{**line, "schema_version": 1} for line in lines]

    with pytest.raises(UserError, match="another version of mosaic-secure"):
        checks(forged(sealed, tmp_path, other_version))
    (tmp_path / "forged" / "messages.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"messages\.jsonl is damaged"):
        checks(tmp_path / "forged")
    with RunDirectory.create(tmp_path / "open") as run, pytest.raises(UserError, match="not sealed"):
        check_server_view(run)
