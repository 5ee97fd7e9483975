"""Flower's grid of a deployed federation, for a server that meets nodes which come and go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from mosaic_secure.deployment.replies import Look, Replies
from mosaic_secure.protocol.failures import TOO_LARGE

__all__ = ["PatientGrid"]

_POLL_SECONDS = 0.25
_LOOK_SECONDS = 5.0  # between two looks at who has come back
_SOON_SECONDS = 1.0  # the same, while somebody is known to be away
_AWAY_SECONDS = 20.0  # beyond the minute after which Flower takes a silent node for gone
_MOST_RESENDS = 3


@dataclass
class _Sent:
    """A request that is on its way: the caller's message, and the node's last arrival when it was sent."""

    message: Message
    arrived: str
    resends: int = 0
    lost: bool = False  # its reply will never be whole
    error: Message | None = None  # Flower's, while the node is away
    away_since: float | None = None  # or a reply of it was lost since


class PatientGrid(Grid):
    """Wraps a grid of Flower's: looks for replies more often, and asks again a node that was started anew.

    A node that is started anew has lost the request that it was at, or the rest of a reply; Flower would wait
    until the timeout and longer. Requests may be sent twice: every party answers the same.

    Args:
        grid: Flower's, connected. replies: as they come in there; made of `grid` if None.
    """

    def __init__(self, grid: Any, replies: Replies | None = None) -> None:
        self._grid = grid
        self._replies = replies or Replies(grid._runtime_client, grid.node)

    @property
    def most_bytes(self) -> int | None:
        """Of the payload of a reply; a larger one is not taken. May be set before each exchange."""
        return self._replies.most_bytes

    @most_bytes.setter
    def most_bytes(self, value: int | None) -> None:
        self._replies.most_bytes = value

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def node_keys(self) -> Mapping[int, bytes]:
        """Node id -> public key (as the nodes were registered with it), of those that are there."""
        return {node.node_id: bytes(node.public_key) for node in self._grid.get_nodes()}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Replies as they come; none for a request that has none after `timeout` seconds."""
        messages = list(messages)
        arrived = self._arrivals()
        self._grid.push_messages(messages)
        sent = {m.metadata.message_id: _Sent(m, arrived.get(m.metadata.dst_node_id, "")) for m in messages}
        asked = {message_id: message_id for message_id in sent}  # what was sent again -> what was sent first
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        look = time.monotonic() + _LOOK_SECONDS
        while sent and (end is None or time.monotonic() < end):
            found = self._replies.look(list(asked), self.run.run_id)
            for reply in found.whole:
                first = asked.pop(reply.metadata.reply_to_message_id, None)
                if first not in sent:
                    continue
                if _is_of_a_node_that_is_away(reply):
                    sent[first].error = reply
                    continue
                replies.append(_answering(reply, first))
                del sent[first]
            for request, stands_for in _without_use(found):
                first = asked.pop(request, None)
                if first in sent:
                    replies.append(_answering(Message(stands_for, reply_to=sent[first].message), first))
                    del sent[first]
            for request in found.lost:
                first = asked.pop(request, None)
                if first in sent:
                    sent[first].lost = True
            if any(request.lost or request.error is not None for request in sent.values()):
                look = min(look, time.monotonic() + _SOON_SECONDS)
            if time.monotonic() >= look:
                self._send_again(sent, asked)
                for first, error in _given_up(sent).items():
                    if error is not None:
                        replies.append(_answering(error, first))
                    del sent[first]
                look = time.monotonic() + _LOOK_SECONDS
            if sent:
                time.sleep(_POLL_SECONDS)
        self._replies.forget(asked)
        return [*replies, *(_answering(r.error, first) for first, r in sent.items() if r.error is not None)]

    def close(self) -> None:
        """Disconnect."""
        self._grid.close()

    def _arrivals(self) -> dict[int, str]:
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _send_again(self, sent: Mapping[str, _Sent], asked: dict[str, str]) -> None:
        """Look who is there, and send again what they must have lost."""
        arrived = self._arrivals()
        for first, request in sent.items():
            metadata = request.message.metadata
            now = arrived.get(metadata.dst_node_id)
            if now == request.arrived and not request.lost and request.error is None:
                request.away_since = None
                continue
            request.away_since = request.away_since or time.monotonic()
            if now is None or request.resends >= _MOST_RESENDS:
                continue
            self._replies.forget([again for again, of in asked.items() if of == first])
            again = Message(
                request.message.content,
                metadata.dst_node_id,
                metadata.message_type,
                ttl=metadata.ttl,
                group_id=metadata.group_id,
            )
            self._grid.push_messages([again])
            asked[again.metadata.message_id] = first
            request.arrived, request.resends = now, request.resends + 1
            request.lost, request.error, request.away_since = False, None, None


def _is_of_a_node_that_is_away(reply: Message) -> bool:
    """Whether Flower answers in place of a node, which may be starting anew at this moment."""
    by_flower = reply.metadata.src_node_id == SUPERLINK_NODE_ID
    return by_flower and reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE


def _without_use(found: Look) -> Iterable[tuple[str, RecordDict | Error]]:
    """Requests whose replies are of no use, and what stands for each: no record at all, or an error."""
    yield from ((request, RecordDict()) for request in found.broken)
    yield from ((request, Error(TOO_LARGE, "")) for request in found.large)


def _answering(reply: Message, request: str) -> Message:
    """The reply, to the request that was sent first."""
    reply.metadata.__dict__["_reply_to_message_id"] = request
    return reply


def _given_up(sent: Mapping[str, _Sent]) -> dict[str, Message | None]:
    """What is waited for no more, with Flower's error if there is one: the node has been away for long, or
    has lost one request too often."""
    now = time.monotonic()
    return {
        first: request.error
        for first, request in sent.items()
        if request.away_since is not None
        and (now - request.away_since >= _AWAY_SECONDS or request.resends >= _MOST_RESENDS)
    }
