"""Carries messages between the server and the parties, checks each against the trust map, and logs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mosaic_secure.protocol.codec import ProtocolError, from_flower, to_flower
from mosaic_secure.protocol.fields import Message
from mosaic_secure.protocol.log import SERVER, MessageLog, Party

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from mosaic_secure.engine.discovery import Node

__all__ = ["Courier", "Refused"]

R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Refused:
    """A party did not give what was asked: `code` is its fixed word, or "failed" or "malformed"."""

    code: str


class Courier:
    """Sends one request to each of several parties and waits for all replies.

    Args:
        grid: any Flower grid. nodes: party id -> node. log: of all messages.
        timeout: seconds to wait for the replies of one exchange; None waits for ever.
    """

    def __init__(
        self, grid: Grid, nodes: Mapping[str, Node], log: MessageLog, timeout: float | None = None
    ) -> None:
        self._grid, self._nodes, self._log, self._timeout = grid, nodes, log, timeout
        self._by_id = {node.node_id: node for node in nodes.values()}

    def ask(self, stage: str, requests: Mapping[str, Message], reply: type[R]) -> dict[str, R | Refused]:
        """Answers by party, in the order of `requests`; a party that is silent is `Refused("silent")`.

        Raises:
            TrustError: a message would carry a field to a role that must not see it.
        """
        out = []
        for party, request in requests.items():
            node = self._nodes[party]
            self._log.record(stage, request, SERVER, Party(node.role, node.party))
            out.append(to_flower(request, node.node_id, group=stage))
        answers: dict[str, R | Refused] = {}
        for received in self._grid.send_and_receive(out, timeout=self._timeout):
            node = self._by_id.get(received.metadata.src_node_id)
            if node is None or node.party not in requests:
                continue
            answers[node.party] = self._read(stage, requests[node.party], reply, received, node)
        return {party: answers.get(party, Refused("silent")) for party in requests}

    def ask_one(self, stage: str, party: str, request: Message, reply: type[R]) -> R | Refused:
        """The answer of one party."""
        return self.ask(stage, {party: request}, reply)[party]

    def _read(
        self, stage: str, request: Message, reply: type[R], received: object, node: Node
    ) -> R | Refused:
        sender = Party(node.role, node.party)
        if received.has_error():
            self._log.record_failure(stage, type(request), sender, SERVER, received.error.code)
            return Refused("failed")
        try:
            answer = from_flower(reply, received)
        except ProtocolError:
            self._log.record_failure(stage, type(request), sender, SERVER, 0)
            return Refused("malformed")
        self._log.record(stage, answer, sender, SERVER)
        code = getattr(answer, "code", "ok")
        return answer if code == "ok" else Refused(code)
