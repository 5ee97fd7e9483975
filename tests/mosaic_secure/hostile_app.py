"""The product's ClientApp with some parties that send something else than their answer.

For the in-process engine without workers, which runs it in the process of the test.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from mosaic_secure.client.app import app as honest

Deed = Callable[[Message, Message], Message]
"""(request, honest reply) -> what is sent instead."""

DEEDS: dict[tuple[str, str], Deed] = {}
"""(party, message type) -> deed; "prototypes" of "train.prototypes" and so on. Tests fill and clear it."""


class _Corrupted(ClientApp):
    def __call__(self, message: Message, context: Context) -> Message:
        reply = honest(message, context)
        kind = message.metadata.message_type.rsplit(".", 1)[-1]
        deed = DEEDS.get((str(context.node_config.get("party")), kind))
        return reply if deed is None else deed(message, reply)


app = _Corrupted()
