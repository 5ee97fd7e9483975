"""Carries messages between the server and the parties, checks each against the trust map, and logs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from flwr.common.constant import ErrorCode

from mosaic_secure.protocol.codec import ProtocolError, content_bytes, from_flower, to_flower
from mosaic_secure.protocol.failures import TOO_LARGE
from mosaic_secure.protocol.fields import Message
from mosaic_secure.protocol.log import SERVER, MessageLog, Party
from mosaic_secure.protocol.messages import CODES

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from mosaic_secure.engine.discovery import Node

__all__ = ["Courier", "LOST", "Refused"]

R = TypeVar("R", bound=Message)

LOST = frozenset({"silent", "unreachable", "crashed"})
"""Codes of a request that may not have been answered at all: to ask again is safe, and may help."""
_UNREACHABLE = frozenset(
    {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
)


@dataclass(frozen=True)
class Refused:
    """A party did not give what was asked.

    `code` is its own fixed word, or what the server found: "failed", "malformed", "too-large", "crashed",
    "unreachable", "silent" (no answer in time) or "absent" (never there).
    """

    code: str


class Courier:
    """Sends one request to each of several parties and waits for all replies.

    Args:
        grid: any Flower grid. nodes: party id -> node, of those that are there. log: of all messages.
        timeout: seconds to wait for the replies of one exchange; None waits for ever.
        most: bytes of a reply, by its class; a larger one is not read, nor taken from the net by a grid with
            an attribute `most_bytes`.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[str, Node],
        log: MessageLog,
        timeout: float | None = None,
        most: Mapping[type[Message], int] | None = None,
    ) -> None:
        self._grid, self._nodes, self._log, self._timeout = grid, nodes, log, timeout
        self._most = most or {}

    def ask(self, stage: str, requests: Mapping[str, Message], reply: type[R]) -> dict[str, R | Refused]:
        """Answers by party, in the order of `requests`.

        A reply belongs to the request that it answers, whoever it says that it comes from: where a node is
        gone, Flower itself answers in its place. What answers an older request is not looked at.

        Raises:
            TrustError: a message would carry a field to a role that must not see it.
        """
        out = {}
        for party, request in requests.items():
            if (node := self._nodes.get(party)) is not None:
                self._log.record(stage, request, SERVER, Party(node.role, node.party))
                out[party] = to_flower(request, node.node_id, group=stage)
        if hasattr(self._grid, "most_bytes"):
            self._grid.most_bytes = self._most.get(reply)
        received = list(self._grid.send_and_receive(list(out.values()), timeout=self._timeout)) if out else []
        asked = {message.metadata.message_id: party for party, message in out.items()}
        answers: dict[str, R | Refused] = {party: Refused("silent") for party in out}
        for answer in received:
            party = asked.pop(answer.metadata.reply_to_message_id, None)  # a second reply is none
            if party is not None:
                answers[party] = self._read(stage, requests[party], reply, answer, self._nodes[party])
        return {party: answers.get(party, Refused("absent")) for party in requests}

    def ask_one(self, stage: str, party: str, request: Message, reply: type[R]) -> R | Refused:
        """The answer of one party."""
        return self.ask(stage, {party: request}, reply)[party]

    def _read(
        self, stage: str, request: Message, reply: type[R], received: object, node: Node
    ) -> R | Refused:
        sender = Party(node.role, node.party)
        if received.has_error():
            self._log.record_failure(stage, type(request), sender, SERVER, received.error.code)
            return Refused(_failure(received.error.code))
        if received.metadata.src_node_id != node.node_id:  # only Flower's own errors come from elsewhere
            self._log.record_failure(stage, type(request), sender, SERVER, 0)
            return Refused("malformed")
        most = self._most.get(reply)
        if most is not None and received.has_content() and content_bytes(received.content) > most:
            self._log.record_failure(stage, type(request), sender, SERVER, 0)
            return Refused("too-large")
        try:
            answer = from_flower(reply, received)
        except ProtocolError:
            self._log.record_failure(stage, type(request), sender, SERVER, 0)
            return Refused("malformed")
        self._log.record(stage, answer, sender, SERVER)
        code = getattr(answer, "code", "ok")
        if code == "ok":
            return answer
        return Refused(code if code in CODES else "malformed")  # no text of a party's own is shown to anybody


def _failure(code: int) -> str:
    """The word for an error that came instead of a reply, by Flower's number for it."""
    if code in _UNREACHABLE:
        return "unreachable"
    if code == TOO_LARGE:
        return "too-large"
    return "crashed" if code == ErrorCode.CLIENT_APP_CRASHED else "failed"
