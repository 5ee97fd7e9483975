"""Whatever goes wrong at a client, the server gets one word of a fixed list, and no byte of what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from mosaic_secure.client import session
from mosaic_secure.engine.inprocess import InProcessGrid
from mosaic_secure.errors import UserError
from mosaic_secure.protocol.codec import to_flower
from mosaic_secure.protocol.failures import note_failure
from mosaic_secure.protocol.messages import (
    CODES,
    EnrolRequest,
    HelloRequest,
    LocalTrainingRequest,
    SealRequest,
)

from .answering import APP, RUN, Client, answer, client
from .test_own_data import images, own_config

MARK = "zebrafish"
TRAIN, SEAL = LocalTrainingRequest(run_id=RUN, round=0), SealRequest(run_id=RUN, final=False)


@pytest.fixture
def made(tmp_path: Path) -> Client:
    """A deployed client whose home, folder and files all have the mark in their names; enrolled."""
    place = tmp_path / MARK
    folder = images(place / "data", "cat", "dog")
    for file in list(folder.rglob("*.png")):
        file.rename(file.with_name(f"{MARK}-{file.name}"))
    first = client(place, own_config(partition__min_records=2), deployed=True, data=str(folder))
    assert first.enrol().code == "ok"
    return first


def check(made: Client, *requests: object, codes: set[str], told: str = MARK) -> None:
    """Each request gets one of `codes`, no reply shows the mark, and the owner finds `told` at home."""
    known = {*CODES, "failed"}
    for request in requests or made.requests():
        reply = made.ask(request)
        assert reply.code in codes <= known, (type(request).__name__, reply.code)
        assert MARK.encode() not in reply.data and b"Traceback" not in reply.data
    assert told in (made.home.path / "failures.log").read_text("utf-8")


def data(made: Client) -> Path:
    return Path(made.node["data"])


def test_the_mark_is_where_it_could_leak_from(made: Client):
    assert MARK in str(made.home.path) and all(MARK in file.name for file in data(made).rglob("*.png"))
    for request in (TRAIN, SEAL):
        reply = made.ask(request)
        assert reply.code == "ok" and MARK.encode() not in reply.data


def test_names_of_files_and_of_classes(made: Client):
    images(data(made), f"{MARK}-class")
    check(made, made.enrolment(), TRAIN, codes={"ok"}, told=f"{MARK}-class: no class of this run")
    (data(made) / "cat" / f"{MARK}.png").write_bytes(b"no picture")
    first = client(made.federation.home.parent / "new", made.plan.config, **made.node | {"role": "client"})
    first.node["home"] = str(first.home.path)
    assert first.enrol().code == "ok"
    check(first, TRAIN, codes={"refused"}, told=f"{MARK}.png: not a readable image")
    assert first.charged == 0


def test_names_that_are_no_text(made: Client):
    """A name of other bytes than UTF-8 must not break the very code that hides it."""
    odd = os.fsencode(data(made) / "cat") + b"/" + MARK.encode() + b"\xff\xfe.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes no such names")
    check(made, TRAIN, codes={"refused"}, told=rf"{MARK}\udcff\udcfe.png")


def test_a_folder_that_is_gone(made: Client):
    data(made).rename(data(made).with_name("moved"))
    check(made, codes={"refused"}, told="no such folder")


def write(name: str, content: str) -> Callable[[Client], None]:
    return lambda made: (made.home.path / name).write_text(content)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (write("policy.toml", f"{MARK} = ["), "policy"),
        (write("policy.toml", f'schema_version = 2\n{MARK} = "x"\n'), "policy"),
        (write("policy.toml", f'schema_version = 2\npopulation = "../{MARK}"\n'), "policy"),
        (write("ledger.jsonl", f"{MARK}\n"), "ledger"),
        (write("ledger.jsonl", f'{{"kind":"{MARK}"}}\n'), "ledger"),
        (write(f"runs/{RUN}.json", f"{MARK}"), "failed"),
        (write(f"runs/{RUN}.json", f'{{"{MARK}":1}}'), "failed"),
        (write("identity.key", MARK), "refused"),
        (lambda made: (made.home.path / "ledger.jsonl").unlink(), "ledger"),
        (lambda made: (made.home.path / "policy.toml").unlink(), "policy"),
        (lambda made: (made.home.path / "identity.key").unlink(), "refused"),
    ],
)
def test_what_lies_at_home_is_damaged_or_gone(made: Client, spoil: Callable[[Client], None], code: str):
    assert made.ask(TRAIN).code == "ok"
    (made.home.path / "failures.log").unlink(missing_ok=True)
    spoil(made)
    check(made, TRAIN, SEAL, codes={code}, told="Traceback")


class Odd(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError(MARK)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(MARK), "failed"),
        (RecursionError(MARK), "failed"),
        (KeyError(MARK), "failed"),
        (OSError(5, "Input/output error", f"/{MARK}/scan.png"), "failed"),
        (UnicodeDecodeError("utf-8", MARK.encode(), 0, 1, MARK), "failed"),
        (RuntimeError(np.full(3, 7.25), MARK), "failed"),
        (UserError(f"{MARK} has 7 records"), "refused"),
        (Odd(), "failed"),
    ],
)
def test_an_exception_while_the_records_are_used(made: Client, monkeypatch, error: Exception, code: str):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(session, "load_client", fail)
    check(made, TRAIN, codes={code}, told="test_failures.py")


@pytest.mark.parametrize(
    "change",
    [
        {"home": None},
        {"party": None},
        {"index": None},
        {"index": MARK},
        {"index": 7},
        {"role": None},
        {"role": MARK},
        {"home": f"/nowhere/{MARK}"},
        {"data": 5},
    ],
)
def test_a_node_that_is_configured_wrongly(made: Client, change: dict[str, object]):
    node = {name: value for name, value in {**made.node, **change}.items() if value is not None}
    for request in (*made.requests(), HelloRequest(version="1")):
        reply = answer(node, request)
        assert reply.code in (*CODES, "failed") and MARK.encode() not in reply.data
        if "role" in change:
            assert reply.code == "failed"
    assert answer(node, TRAIN).code != "ok"


def test_requests_that_are_none(made: Client):
    """They are the server's own words, and get no more than a word back."""
    enrolment = vars(made.enrolment())
    for name in ("config_json", "plan_json", "roster_json"):
        for text in ("", "{", "[]", "null", '{"a":NaN}'):
            reply = made.ask(EnrolRequest(**{**enrolment, name: text}))
            assert reply.code in ("refused", "failed", "policy", "budget"), (name, text, reply.code)
            assert MARK.encode() not in reply.data
    replies: list[bytes] = []
    with InProcessGrid(
        {1000: made.node}, APP, workers=0, observer=lambda kind, _, data: replies.append(data)
    ) as grid:
        for action in ("train.local_training", "query.enrol", "query.nothing", "train.prototypes"):
            for content in (RecordDict(), RecordDict({"message": ConfigRecord({"schema": "x"})})):
                (reply,) = grid.send_and_receive([Message(content, 1000, action)])
                assert reply.has_error() and reply.error.reason == "failed"
        wrong = to_flower(SEAL, 1000)
        wrong.metadata.__dict__["_message_type"] = "train.local_training"
        (reply,) = grid.send_and_receive([wrong])
        assert reply.has_error() and reply.error.reason == "failed"
    assert not any(MARK.encode() in data for data in replies)


def test_a_note_never_fails(tmp_path: Path):
    for home in (None, 3, "", str(tmp_path / "nowhere"), "\0", str(tmp_path)):
        note_failure(home, "what", Odd())
    assert "Odd" in (tmp_path / "failures.log").read_text()
    (tmp_path / "failures.log").unlink()
    (tmp_path / "failures.log").mkdir()
    note_failure(str(tmp_path), "what", ValueError("x"))
