"""Whose reply is whose, and by which word the server goes on without a party."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.engine.discovery import Node
from mosaic_secure.protocol.codec import reply_to
from mosaic_secure.protocol.log import MessageLog
from mosaic_secure.protocol.messages import FineTuneReply, FineTuneRequest
from mosaic_secure.server.courier import LOST, Courier, Refused

REQUEST = FineTuneRequest(run_id="r", round=0, weights={})
NODES = {f"client-{i}": Node(10 + i, "client", f"client-{i}", b"k" * 32) for i in range(2)}


class _Grid:
    """Answers each request with what `answer` makes of it."""

    def __init__(self, answer: Callable[[Message], list[Message]]) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._answer = answer

    def send_and_receive(self, messages: list[Message], timeout: float | None) -> list[Message]:
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
        return [reply for message in messages for reply in self._answer(message)]


def ask(tmp_path: Path, answer: Callable[[Message], list[Message]], *parties: str) -> dict[str, object]:
    courier = Courier(_Grid(answer), NODES, MessageLog(tmp_path / "log.jsonl"))
    return courier.ask("s", {party: REQUEST for party in parties or NODES}, FineTuneReply)


def good(message: Message, **metadata: object) -> Message:
    reply = reply_to(message, FineTuneReply(code="ok"))
    reply.metadata.__dict__.update({f"_{name}": value for name, value in metadata.items()})
    return reply


def test_replies_are_told_apart_by_what_they_answer(tmp_path: Path):
    answers = ask(tmp_path, lambda message: [good(message)])
    assert all(answers[party].code == "ok" for party in NODES)


@pytest.mark.parametrize(("number", "code"), [(5, "unreachable"), (3, "unreachable"), (4, "unreachable")])
def test_flowers_own_answer_for_a_node_that_is_gone_is_of_that_node(tmp_path: Path, number: int, code: str):
    def answer(message: Message) -> list[Message]:
        reply = Message(Error(number, "gone"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1  # Flower's own number
        return [reply]

    answers = ask(tmp_path, answer)
    assert answers == {party: Refused(code) for party in NODES} and code in LOST


@pytest.mark.parametrize(("number", "code"), [(8, "crashed"), (2, "failed"), (1, "failed"), (0, "failed")])
def test_an_error_has_a_word_that_says_whether_to_ask_again(tmp_path: Path, number: int, code: str):
    answers = ask(tmp_path, lambda message: [Message(Error(number, "text"), reply_to=message)])
    assert set(answers.values()) == {Refused(code)} and (code in LOST) == (code == "crashed")


def test_a_reply_in_the_name_of_another_node_is_not_taken(tmp_path: Path):
    answers = ask(tmp_path, lambda message: [good(message, src_node_id=99)])
    assert set(answers.values()) == {Refused("malformed")}


def test_a_reply_to_an_older_request_and_a_second_reply_are_not_looked_at(tmp_path: Path):
    def answer(message: Message) -> list[Message]:
        late = good(message, reply_to_message_id="of a stage before")
        return [late, good(message), Message(Error(2, "second"), reply_to=message)]

    answers = ask(tmp_path, answer)
    assert all(answers[party].code == "ok" and not isinstance(answers[party], Refused) for party in NODES)


def test_silence_and_absence_have_words_of_their_own(tmp_path: Path):
    answers = ask(tmp_path, lambda message: [], "client-0", "client-7")
    assert answers == {"client-0": Refused("silent"), "client-7": Refused("absent")}
    assert "silent" in LOST and "absent" not in LOST
