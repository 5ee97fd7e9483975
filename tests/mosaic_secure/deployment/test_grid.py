"""The grid of a deployed server: nodes that come and go under its requests."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.deployment import grid as module
from mosaic_secure.deployment.grid import PatientGrid
from mosaic_secure.deployment.replies import Look
from mosaic_secure.engine.discovery import Node
from mosaic_secure.protocol.log import MessageLog
from mosaic_secure.protocol.messages import EnrolReply, HelloReply, HelloRequest
from mosaic_secure.server.courier import Courier, Refused

NODE = 17


@dataclass
class _Info:
    node_id: int
    last_activated_at: str
    public_key: bytes = b"key"


@dataclass
class _Flower:
    """Stands for Flower's grid and the replies in it: scripted, with the times when nodes were started."""

    arrivals: dict[int, str] = field(default_factory=lambda: {NODE: "one"})
    answers_after: int = 0  # looks for replies before the last request is answered
    silent_until_sent: int = 1  # requests that must have come before any is answered
    sent: list[Message] = field(default_factory=list)
    looks: int = 0
    lost: list[str] = field(default_factory=list)  # requests whose reply will not come, told once
    forgotten: set[str] = field(default_factory=set)
    most_bytes: int | None = None
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def get_nodes(self) -> list[_Info]:
        return [_Info(node, when) for node, when in self.arrivals.items()]

    def push_messages(self, messages: list[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self.numbers)}"
            self.sent.append(message)
        return [message.metadata.message_id for message in messages]

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=1)

    def forget(self, requests: Collection[str]) -> None:
        self.forgotten.update(requests)

    def look(self, requests: list[str], run_id: int) -> Look:
        self.looks += 1
        lost, self.lost = self.lost, []
        if self.looks <= self.answers_after or len(self.sent) < self.silent_until_sent:
            return Look(lost=lost)
        last = self.sent[-1]
        assert last.metadata.message_id in requests and run_id == 1
        return Look([Message(RecordDict(), reply_to=last)], lost)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
    for name, seconds in (("_LOOK", 0.003), ("_SOON", 0.002), ("_AWAY", 0.2)):
        monkeypatch.setattr(module, f"{name}_SECONDS", seconds)


def request() -> Message:
    return Message(RecordDict(), NODE, "query.hello")


def test_a_reply_is_waited_for_and_answers_the_request_that_was_sent():
    flower = _Flower(answers_after=3)
    asked = request()
    (reply,) = PatientGrid(flower, flower).send_and_receive([asked])
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id == "m1"
    assert flower.looks == 4 and len(flower.sent) == 1


def test_a_request_without_a_reply_ends_with_the_timeout():
    flower = _Flower(silent_until_sent=99)
    assert list(PatientGrid(flower, flower).send_and_receive([request()], timeout=0.05)) == []
    assert len(flower.sent) == 1  # its node was there all the time: nothing is sent twice


def test_a_node_that_was_started_anew_is_asked_again_and_answers_the_first_request():
    flower = _Flower(silent_until_sent=2)
    asked = request()
    real = flower.look

    def restart(requests: list[str], run_id: int) -> Any:
        flower.arrivals[NODE] = "two"
        return real(requests, run_id)

    flower.look = restart
    (reply,) = PatientGrid(flower, flower).send_and_receive([asked], timeout=10)
    assert [message.metadata.message_id for message in flower.sent] == ["m1", "m2"]
    assert reply.metadata.reply_to_message_id == "m1" and "m1" in flower.forgotten


def test_a_node_that_starts_anew_for_ever_is_not_asked_for_ever():
    flower = _Flower(silent_until_sent=99)
    starts = itertools.count()
    real = flower.look

    def restart(requests: list[str], run_id: int) -> Any:
        flower.arrivals[NODE] = str(next(starts))
        return real(requests, run_id)

    flower.look = restart
    assert list(PatientGrid(flower, flower).send_and_receive([request()], timeout=0.3)) == []
    assert len(flower.sent) == 1 + module._MOST_RESENDS


def test_a_request_whose_reply_is_lost_is_sent_again():
    flower = _Flower(silent_until_sent=2, lost=["m1", "m0"])  # one of them of a stage before
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=10)
    assert [message.metadata.message_id for message in flower.sent] == ["m1", "m2"]
    assert reply.metadata.reply_to_message_id == "m1"


def away(message: Message) -> Message:
    """What Flower answers in place of a node that is not there."""
    reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "away"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    return reply


@pytest.mark.parametrize("arrival", ["one", "two"])  # its network was away, or it was started anew
def test_a_node_that_was_away_for_a_moment_is_asked_again(arrival: str):
    flower = _Flower(silent_until_sent=2)
    real = flower.look

    def blink(requests: list[str], run_id: int) -> Any:
        if flower.looks == 0:
            flower.looks += 1
            flower.arrivals.clear()
            return Look([away(flower.sent[0])])
        if flower.looks == 5:
            flower.arrivals[NODE] = arrival
        assert "m1" not in requests  # Flower has answered it
        return real(requests, run_id)

    flower.look = blink
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=10)
    assert not reply.has_error() and reply.metadata.reply_to_message_id == "m1"
    assert [message.metadata.message_id for message in flower.sent] == ["m1", "m2"]


@pytest.mark.parametrize("timeout", [0.05, 10])
def test_a_node_that_stays_away_is_given_up(timeout: float):
    flower = _Flower(silent_until_sent=99)

    def leave(requests: list[str], run_id: int) -> Any:
        if not flower.arrivals:
            return Look()
        flower.arrivals.clear()
        return Look([away(flower.sent[0])])

    flower.look = leave
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=timeout)
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE and len(flower.sent) == 1
    assert reply.metadata.reply_to_message_id == "m1"


def test_a_node_that_is_away_again_and_again_is_given_up():
    flower = _Flower(silent_until_sent=99)
    flower.look = lambda requests, run_id: Look([away(flower.sent[-1])] if requests else [])
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=10)
    assert reply.has_error() and len(flower.sent) == 1 + module._MOST_RESENDS


def test_a_node_that_says_of_itself_that_it_is_away_has_answered():
    flower = _Flower()
    flower.look = lambda requests, run_id: Look(
        [Message(Error(ErrorCode.NODE_UNAVAILABLE, "away"), reply_to=flower.sent[-1])]
    )
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=10)
    assert reply.has_error() and len(flower.sent) == 1


def test_a_reply_that_is_none_is_an_answer_and_not_asked_for_again():
    flower = _Flower()
    flower.look = lambda requests, run_id: Look(broken=["m1"])
    (reply,) = PatientGrid(flower, flower).send_and_receive([request()], timeout=10)
    assert reply.metadata.reply_to_message_id == "m1" and not reply.content and len(flower.sent) == 1


def test_a_reply_that_is_too_large_loses_its_sender_the_stage_by_that_name(tmp_path: Path):
    flower = _Flower()
    flower.look = lambda requests, run_id: Look(large=[flower.sent[-1].metadata.message_id])
    nodes = {"client-0": Node(NODE, "client", "client-0", b"")}
    log = MessageLog(tmp_path / "messages.jsonl")
    courier = Courier(PatientGrid(flower, flower), nodes, log, 10, {HelloReply: 5})
    found = courier.ask_one("hello", "client-0", HelloRequest(version="1"), HelloReply)
    assert found == Refused("too-large") and flower.most_bytes == 5
    courier.ask_one("hello", "client-0", HelloRequest(version="1"), EnrolReply)
    assert flower.most_bytes is None  # of a kind of reply without a bound


@pytest.mark.parametrize("there", [False, True])
def test_a_reply_that_is_lost_again_and_again_keeps_nobody_waiting(there: bool):
    """There is no timeout. A node that is there is asked a few times; one that has gone, not at all."""
    flower = _Flower(silent_until_sent=99)

    def lose(requests: list[str], run_id: int) -> Look:
        if not there:
            flower.arrivals.clear()
        return Look(lost=list(requests))

    flower.look = lose
    assert list(PatientGrid(flower, flower).send_and_receive([request()])) == []
    assert len(flower.sent) == 1 + module._MOST_RESENDS * there


def test_a_node_that_has_gone_in_the_middle_of_a_reply_is_given_up():
    flower = _Flower(silent_until_sent=99)

    def leave(requests: list[str], run_id: int) -> Look:
        flower.arrivals.clear()
        return Look()

    flower.look = leave
    assert list(PatientGrid(flower, flower).send_and_receive([request()])) == []
    assert len(flower.sent) == 1


def test_a_node_that_is_gone_is_not_asked_again():
    flower = _Flower(silent_until_sent=99)
    grid = PatientGrid(flower, flower)
    real = flower.look

    def leave(requests: list[str], run_id: int) -> Any:
        flower.arrivals.clear()
        return real(requests, run_id)

    flower.look = leave
    assert list(grid.send_and_receive([request()], timeout=0.05)) == []
    assert len(flower.sent) == 1 and grid.node_keys() == {}
