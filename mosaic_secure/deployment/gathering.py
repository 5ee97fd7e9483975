"""Which parties of a federation are there, and at which node each answers: by the keys of their nodes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mosaic_secure.deployment.description import AUTHORITY
from mosaic_secure.engine.discovery import DiscoveryError, Node
from mosaic_secure.protocol.codec import ProtocolError, from_flower, to_flower
from mosaic_secure.protocol.messages import HelloReply, HelloRequest

if TYPE_CHECKING:
    from mosaic_secure.deployment.description import FederationDescription
    from mosaic_secure.deployment.grid import PatientGrid

__all__ = ["gather"]

_POLL_SECONDS = 1.0
_HELLO_SECONDS = 300.0  # a party that was just started loads its libraries first
_HELLO_BYTES = 1 << 16
_VERSION = re.compile("[0-9][0-9A-Za-z.+]{0,29}")


def gather(
    grid: PatientGrid,
    federation: FederationDescription,
    fewest: int,
    *,
    version: str,
    grace: float,
    patience: float,
    note: Callable[[str], None],
) -> Mapping[str, Node]:
    """Party id -> node, of the parties that are there, the authority always among them.

    A node is the party whose node key it was let in with; what it says of itself must agree with that.

    Args:
        fewest: clients without which nothing starts. version: that all must run.
        grace: seconds to wait for all of them once enough are there. patience: to wait for enough.
        note: is told, in a line, whom the run waits for and goes on without.

    Raises:
        DiscoveryError: the authority or too many clients are missing, or do not answer as they should.
    """
    here = _wait(grid, federation, fewest, grace, patience, note)
    grid.most_bytes = _HELLO_BYTES
    requests = {party: to_flower(HelloRequest(version=version), node, group="hello") for party, node in here}
    replies = {
        reply.metadata.reply_to_message_id: reply
        for reply in grid.send_and_receive(list(requests.values()), timeout=min(patience, _HELLO_SECONDS))
    }
    nodes: dict[str, Node] = {}
    for party, request in requests.items():
        reply = replies.get(request.metadata.message_id)
        try:
            if reply is None:
                raise ProtocolError("does not answer")
            nodes[party] = _checked(
                from_flower(HelloReply, reply), party, federation, version, dict(here)[party]
            )
        except ProtocolError as error:
            note(f"goes on without {party}: {error}")
    _need(nodes, fewest, len(federation.clients))
    return dict(sorted(nodes.items()))


def _wait(
    grid: PatientGrid,
    federation: FederationDescription,
    fewest: int,
    grace: float,
    patience: float,
    note: Callable[[str], None],
) -> list[tuple[str, int]]:
    start = time.monotonic()
    enough_since: float | None = None
    told: list[str] = []
    while True:
        here = {}
        for node_id, key in grid.node_keys().items():
            party = federation.party_of_node_key(key)
            if party is not None and party.party not in federation.revoked:
                here[party.party] = node_id
        everybody = {party.party for party in federation.parties} - set(federation.revoked)
        missing = sorted(everybody - here.keys())
        now = time.monotonic()
        enough = AUTHORITY in here and len(here) - 1 >= fewest
        enough_since = (enough_since or now) if enough else None
        if not missing or (enough_since is not None and now - enough_since >= grace):
            return sorted(here.items())
        if now - start > patience:
            _need(here, fewest, len(federation.clients))
        if missing != told:
            note(f"waits for {', '.join(missing)}")
            told = missing
        time.sleep(_POLL_SECONDS)


def _checked(
    hello: HelloReply, party: str, federation: FederationDescription, version: str, node_id: int
) -> Node:
    if hello.party != party or hello.identity.hex() != federation.roster[party]:
        raise ProtocolError("its node says that it is somebody else")
    if hello.role != (AUTHORITY if party == AUTHORITY else "client"):
        raise ProtocolError("its node says that it has another role")
    if hello.version != version:
        named = hello.version if _VERSION.fullmatch(hello.version) else "of another kind"  # its own words
        raise ProtocolError(f"it runs version {named}, the server {version}")
    return Node(node_id, hello.role, party, hello.identity)


def _need(here: Mapping[str, object], fewest: int, clients: int) -> None:
    there = len(here) - (AUTHORITY in here)
    if AUTHORITY not in here:
        raise DiscoveryError("the key authority is not there; start it with mosaic-secure authority")
    if there < fewest:
        raise DiscoveryError(f"{there} of {clients} clients are there, the plan needs {fewest}")
