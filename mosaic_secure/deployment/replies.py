"""Replies of nodes as they come in, piece by piece.

A node names a reply first and sends its pieces then. Flower's grid waits for them, up to two hours, and for
nothing else meanwhile, even if the node has died in between. Here each look takes what is there.

What a node sends may be anything: Flower looks at the hashes of pieces, and at the address on the envelope,
not at the letter in it. Of one that is too large no more is taken than shows that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mosaic_secure.protocol.codec import content_bytes

if TYPE_CHECKING:
    from flwr.app import Message

__all__ = ["Look", "Replies"]

_MOST_PIECES = 1 << 12  # an honest reply has one for each array and part of it, and few more
_FRAMES = 1 << 20  # bytes for what Flower puts around a payload


class _TooLarge(Exception):
    """A reply has more bytes, or more pieces, than it may have."""


@dataclass
class _Coming:
    """A reply that was named: as what, and the numbers of its pieces that are missing."""

    named: Any
    missing: list[str]
    pieces: dict[str, bytes] = field(default_factory=dict)
    taken: int = 0

    @property
    def request(self) -> str:
        """Number of the request that it answers."""
        return self.named.reply_to_message_id


@dataclass
class Look:
    """What one look has found: replies that are whole, and requests whose replies are lost, are none, or are
    larger than they may be."""

    whole: list[Message] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)


class Replies:
    """What has come in for a server's run so far.

    Args:
        client: of Flower's Runtime API. node: the server's own, as Flower knows it.

    Attributes:
        most_bytes: that the payload of one reply may have; any number if None.
    """

    def __init__(self, client: Any, node: Any) -> None:
        self._client, self._node = client, node
        self.most_bytes: int | None = None
        self._coming: dict[str, _Coming] = {}
        self._named: set[str] = set()  # requests with a reply; asked again, Flower says there is none

    def look(self, requests: Sequence[str], run_id: int) -> Look:
        """Take in what is there of replies, to these requests and those of looks before."""
        from flwr.proto.runtime_pb2 import PullAppMessagesRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
        from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
        from flwr.supercore.inflatable.inflatable_utils import ObjectPullError  # it will never be whole

        if waiting := [request for request in requests if request not in self._named]:
            named = self._client.PullMessages(PullAppMessagesRequest(message_ids=waiting))
            for message, tree in zip(named.messages_list, named.message_object_trees, strict=True):
                pieces = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
                self._coming[tree.object_id] = _Coming(message.metadata, pieces)
                self._named.add(message.metadata.reply_to_message_id)
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id)
        found = Look()
        for number, coming in list(self._coming.items()):
            try:
                if not _take(coming, pull, self.most_bytes):
                    continue
            except ObjectPullError:
                found.lost.append(coming.request)
            except _TooLarge:
                self._confirm(number, run_id)
                found.large.append(coming.request)
            else:
                self._confirm(number, run_id)
                message = _read(number, coming)
                if message is None:
                    found.broken.append(coming.request)
                else:
                    found.whole.append(message)
            del self._coming[number]
        return found

    def forget(self, requests: Collection[str]) -> None:
        """Wait no longer for what is missing of replies to these requests."""
        self._coming = {n: coming for n, coming in self._coming.items() if coming.request not in requests}

    def _confirm(self, number: str, run_id: int) -> None:
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=number)
        )


def _read(number: str, coming: _Coming) -> Message | None:
    """The message that the pieces make; None if they make none, or another than was named."""
    from flwr.app import Message
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    try:
        message = inflate_object_from_contents(number, coming.pieces)
        if not isinstance(message, Message) or not _as_named(message.metadata, coming.named):
            return None
        if not message.has_error():
            content_bytes(message.content)  # goes through all of it
    except Exception:  # whatever it is that they break: they come from somebody else
        return None
    message.metadata.__dict__["_message_id"] = number
    return message


def _as_named(inside: Any, named: Any) -> bool:
    """Whether sender, run and request in a message are those that the SuperLink has looked at."""
    fields = ("src_node_id", "run_id", "reply_to_message_id")
    return all(getattr(inside, field) == getattr(named, field) for field in fields)


def _take(coming: _Coming, pull: Callable[[str], bytes], most_bytes: int | None) -> bool:
    """Take the pieces that are there; whether that was the last of them."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

    if most_bytes is not None and len(coming.pieces) + len(coming.missing) > _MOST_PIECES:
        raise _TooLarge
    while coming.missing:
        try:
            piece = pull(coming.missing[0])
        except ObjectUnavailableError:
            return False
        coming.taken += len(piece)
        if most_bytes is not None and coming.taken > most_bytes + _FRAMES:
            raise _TooLarge
        coming.pieces[coming.missing.pop(0)] = piece
    return True
