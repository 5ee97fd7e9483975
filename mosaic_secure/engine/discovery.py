"""Which party answers at which node: the server asks every node once, whatever engine runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mosaic_secure.protocol.codec import ProtocolError, from_flower, to_flower
from mosaic_secure.protocol.messages import HelloReply, HelloRequest

if TYPE_CHECKING:
    from flwr.serverapp import Grid

_POLL_SECONDS = 0.2


class DiscoveryError(RuntimeError):
    """Not every expected party is there, or two nodes claim to be the same party."""


@dataclass(frozen=True)
class Node:
    """A party and the node it answers at; ``identity`` is its public Ed25519 key (32 bytes)."""

    node_id: int
    role: str
    party: str
    identity: bytes


def discover(grid: Grid, expected: int, *, version: str, timeout: float = 300.0) -> Mapping[str, Node]:
    """Party id -> node, sorted by party id, once ``expected`` nodes are there and have said who they are.

    Node ids are arbitrary in some engines; party ids are the same in all. ``timeout`` is in seconds; on a
    busy machine workers need a minute and more before they first answer.

    Raises:
        DiscoveryError: if nodes are missing, fail to answer, run another version, or claim the same party.
    """
    end = time.monotonic() + timeout
    while len(node_ids := sorted(grid.get_node_ids())) < expected:
        if time.monotonic() > end:
            raise DiscoveryError(f"{len(node_ids)} of {expected} nodes are there after {timeout:g} s")
        time.sleep(_POLL_SECONDS)
    requests = [to_flower(HelloRequest(version=version), node_id, group="hello") for node_id in node_ids]
    nodes: dict[str, Node] = {}
    for answer in grid.send_and_receive(requests, timeout=max(_POLL_SECONDS, end - time.monotonic())):
        try:
            hello = from_flower(HelloReply, answer)
        except ProtocolError as error:
            raise DiscoveryError(f"node {answer.metadata.src_node_id}: {error}") from None
        if hello.version != version:
            raise DiscoveryError(f"{hello.party} runs version {hello.version}, the server {version}")
        if hello.party in nodes:
            raise DiscoveryError(f"two nodes say that they are {hello.party}")
        nodes[hello.party] = Node(answer.metadata.src_node_id, hello.role, hello.party, hello.identity)
    if len(nodes) < expected:
        raise DiscoveryError(f"{len(nodes)} of {expected} nodes answered within {timeout:g} s")
    return dict(sorted(nodes.items()))
