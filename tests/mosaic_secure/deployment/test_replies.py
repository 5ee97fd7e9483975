"""Replies that come in piece by piece, of nodes that may die in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.deployment import replies as module
from mosaic_secure.deployment.replies import Look, Replies

RUN, NODE = 1, 7
NOTHING = Look()


def answer(request: str, content: RecordDict | Error, node: int = NODE) -> Message:
    """A node's reply to the request of this number."""
    asked = Message(RecordDict(), node, "query.hello")
    asked.metadata.__dict__["_message_id"] = request
    return Message(content, reply_to=asked)


@dataclass
class _Link:
    """Stands for the SuperLink's Runtime API: names a reply once, and must not be asked for it again.

    Its pieces come when they are put here.
    """

    named: list[tuple[MetadataProto, Message]] = field(default_factory=list)
    pieces: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    confirmed: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    pulls: int = 0

    def reply(self, request: str, value: float) -> dict[str, bytes]:
        """Name a reply; its pieces."""
        array = Array(np.full(3, value, np.float32))
        return self.name(answer(request, RecordDict({"a": ArrayRecord({"w": array})})))

    def name(self, message: Message, **told: Any) -> dict[str, bytes]:
        """Name a reply, as what it is or as what is `told`; its pieces."""
        fields = ("src_node_id", "run_id", "reply_to_message_id")
        metadata = {field: getattr(message.metadata, field) for field in fields} | told
        self.named.append((MetadataProto(**metadata), message))
        return {number: item.deflate() for number, item in get_all_nested_objects(message).items()}

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        asked = set(request.message_ids)
        assert not self.told & asked
        now = [pair for pair in self.named if pair[0].reply_to_message_id in asked]
        self.named = [pair for pair in self.named if pair not in now]
        self.told.update(metadata.reply_to_message_id for metadata, _ in now)
        return PullAppMessagesResponse(
            messages_list=[MessageProto(metadata=metadata) for metadata, _ in now],
            message_object_trees=[get_object_tree(message) for _, message in now],
        )

    def PullObject(self, request: Any) -> Any:
        self.pulls += 1
        assert request.run_id == RUN
        number = request.object_id
        return SimpleNamespace(
            object_found=number not in self.gone,
            object_available=number in self.pieces,
            object_content=self.pieces.get(number, b""),
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def link() -> _Link:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
    return _Link()


def values(messages: list[Message]) -> list[float]:
    return [float(message.content["a"]["w"].numpy()[0]) for message in messages]


def test_a_reply_is_given_once_and_when_all_of_it_is_there(link: _Link):
    replies, parts = Replies(link, None), link.reply("one", 0.5)
    assert len(parts) >= 4 and replies.look(["one"], RUN) == NOTHING
    for number, content in sorted(parts.items()):
        assert replies.look(["one"], RUN) == NOTHING and not link.confirmed
        link.pieces[number] = content
    whole = replies.look(["one"], RUN).whole
    assert values(whole) == [0.5] and len(link.confirmed) == 1
    assert whole[0].metadata.message_id == link.confirmed[0] in parts
    assert replies.look(["one"], RUN) == NOTHING


def test_one_that_does_not_get_whole_keeps_nobody_waiting(link: _Link):
    replies = Replies(link, None)
    half, other = link.reply("one", 0.5), link.reply("two", 0.25)
    link.pieces |= dict(sorted(half.items())[:2]) | other
    assert values(replies.look(["one", "two"], RUN).whole) == [0.25]
    link.pieces |= half
    assert values(replies.look(["one"], RUN).whole) == [0.5]


def test_pieces_are_asked_for_once(link: _Link):
    replies, parts = Replies(link, None), link.reply("one", 0.5)
    for number, content in parts.items():
        link.pieces[number] = content
        replies.look(["one"], RUN)
    assert link.pulls <= 2 * len(parts)


def test_a_reply_that_flower_has_given_up_is_told_to_be_lost(link: _Link):
    replies, parts = Replies(link, None), link.reply("one", 0.5)
    assert replies.look(["one"], RUN) == NOTHING
    link.gone.update(parts)
    assert replies.look(["one"], RUN) == Look(lost=["one"])
    assert replies.look(["one"], RUN) == NOTHING


def test_what_is_forgotten_is_not_looked_for(link: _Link):
    replies, parts = Replies(link, None), link.reply("one", 0.5)
    replies.look(["one"], RUN)
    replies.forget(["one"])
    link.pieces |= parts
    pulls = link.pulls
    assert replies.look(["one"], RUN) == NOTHING and link.pulls == pulls


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (RecordDict(), {"reply_to_message_id": "one", "src_node_id": NODE + 1}),
        (RecordDict(), {"reply_to_message_id": "one", "run_id": RUN + 1}),
        (Error(5, "away"), {"reply_to_message_id": "one", "src_node_id": NODE + 1}),
    ],
)
def test_a_letter_that_is_not_what_its_envelope_says_is_none(link: _Link, content, told: dict[str, Any]):
    link.pieces |= link.name(answer("one", content), **told)
    assert Replies(link, None).look(["one"], RUN) == Look(broken=["one"])


def test_a_letter_that_answers_another_request_than_its_envelope_is_none(link: _Link):
    """A node that knows the number of a request to another node would answer it so, in that node's name."""
    forged = answer("two", RecordDict(), node=NODE + 1)
    link.pieces |= link.name(forged, reply_to_message_id="one", src_node_id=NODE)
    assert Replies(link, None).look(["one", "two"], RUN) == Look(broken=["one"])


def _lacking(message: Message) -> tuple[Any, dict[str, bytes]]:
    """A tree that does not list what a piece in it refers to."""
    tree = get_object_tree(message)
    del tree.children[:]
    return tree, {message.object_id: message.deflate()}


def _other_kind(message: Message) -> tuple[Any, dict[str, bytes]]:
    """Records where a message belongs."""
    found = get_all_nested_objects(message.content)
    return get_object_tree(message.content), {number: item.deflate() for number, item in found.items()}


def _records_of_another_kind(message: Message) -> tuple[Any, dict[str, bytes]]:
    """A record where the records belong."""
    message.__dict__["_content"] = ConfigRecord({"a": 1})
    found = get_all_nested_objects(message)
    return get_object_tree(message), {number: item.deflate() for number, item in found.items()}


def _garbage(message: Message) -> tuple[Any, dict[str, bytes]]:
    """A body that is no message, behind a head that says so."""
    head, _, body = message.deflate().partition(b"\0")
    data = head + b"\0" + b"\xff" * len(body)
    tree = get_object_tree(message)
    found = get_all_nested_objects(message)
    pieces = {number: item.deflate() for number, item in found.items()}
    return tree, {**pieces, message.object_id: data}


@pytest.mark.parametrize("broken", [_lacking, _other_kind, _records_of_another_kind, _garbage])
def test_pieces_that_make_no_message_cost_their_sender_alone(
    link: _Link, broken: Any, monkeypatch: pytest.MonkeyPatch
):
    message = answer("one", RecordDict({"a": ArrayRecord()}))
    tree, pieces = broken(message)
    other = link.reply("two", 0.25)
    link.pieces |= pieces | other
    link.name(message)
    real = get_object_tree
    monkeypatch.setattr(
        f"{__name__}.get_object_tree", lambda named: tree if named is message else real(named)
    )
    found = Replies(link, None).look(["one", "two"], RUN)
    assert found.broken == ["one"] and values(found.whole) == [0.25] and found.lost == []


def test_no_more_is_taken_of_a_reply_than_shows_that_it_is_too_large(link: _Link):
    big = Array(np.zeros(5 << 20, np.uint8))
    records = RecordDict({"a": ArrayRecord({f"w{index}": big for index in range(3)})})
    records["b"] = ArrayRecord({"w": Array(np.ones(5 << 20, np.uint8))})
    link.pieces |= link.name(answer("one", records))
    other = link.reply("two", 0.25)
    link.pieces |= other
    replies = Replies(link, None)
    replies.most_bytes = 1 << 20
    found = replies.look(["one", "two"], RUN)
    assert found.large == ["one"] and values(found.whole) == [0.25]
    assert len(link.confirmed) == 2  # the SuperLink need not keep it either
    assert replies.look(["one", "two"], RUN) == NOTHING
    replies.most_bytes = None
    link.pieces |= link.name(answer("three", records))
    assert len(replies.look(["three"], RUN).whole) == 1


def test_a_reply_of_endlessly_many_pieces_is_not_begun(link: _Link, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST_PIECES", 3)
    link.pieces |= link.reply("one", 0.5)
    replies = Replies(link, None)
    replies.most_bytes = 1 << 20
    assert replies.look(["one"], RUN) == Look(large=["one"])
    assert link.pulls == 0
