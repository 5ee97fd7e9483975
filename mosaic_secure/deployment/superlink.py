"""Flower's SuperLink, with a guard before it: ``python -m mosaic_secure.deployment.superlink``.

Flower serves three interfaces on one port: Fleet for nodes, which it authenticates, and Runtime and Control,
for the server's own processes. Whoever reaches Control may start runs and register nodes. So all but Fleet is
answered to this machine only.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from mosaic_secure.deployment.leash import hold
from mosaic_secure.deployment.long_poll import LongPoll

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Guard", "listening", "serving"]

FLEET = "/v1/fleet/"
MOST_BYTES = 256 << 20
"""Largest body of one request. Flower sends what is larger in pieces far smaller than this."""

_PUSH = f"{FLEET}push-messages"
_CLEANING_SECONDS = 1.0
_LOCAL = "127.0.0.1"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _TooLarge(Exception):
    """A body went on beyond the limit."""


class _Gone(Exception):
    """Who made a request has left before all of it was there."""


class Guard:
    """ASGI middleware before Flower's SuperLink.

    Refuses other machines all but Fleet (403), everybody bodies too large (413), and nodes replies in another
    node's name (403): Flower asks whose the request is, and not whose the reply in it says that it is.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], most_bytes: int = MOST_BYTES
    ) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        if not str(scope["path"]).startswith(FLEET) and not _is_local(scope):
            await _refuse(send, 403)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await _refuse(send, 413)
            return
        # The body at once: Flower keeps all of it anyway, and hands on each piece five times over.
        try:
            bodies = [await _body(receive, self._most)]
        except _TooLarge:
            await _refuse(send, 413)
            return
        except _Gone:
            return
        if scope["path"] == _PUSH and not _is_its_own(bodies[0]):
            await _refuse(send, 403)
            return

        async def whole() -> MutableMapping[str, Any]:
            if not bodies:
                return await receive()
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        await self._app(scope, whole, send)


async def _body(receive: Receive, most: int) -> bytes:
    """All of a request's body."""
    pieces, seen, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        pieces.append(message.get("body", b""))
        seen, more = seen + len(pieces[-1]), message.get("more_body", False)
        if seen > most:
            raise _TooLarge
    return b"".join(pieces)


def _is_local(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client is not None else None
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 client of a socket for both
    return address is not None and (mapped or address).is_loopback


def _is_its_own(body: bytes) -> bool:
    """Whether replies that are pushed are of the node that pushes. What is no push Flower refuses itself."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from google.protobuf.message import DecodeError

    try:
        pushed = PushMessagesRequest.FromString(body)
    except DecodeError:
        return True
    return all(reply.metadata.src_node_id == pushed.node.node_id for reply in pushed.messages_list)


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _clean_seldom() -> None:
    """Flower ends tasks that nobody does any more by a write at every request; here once a second."""
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    clean, cleaned = SqlCoreState._cleanup_expired_task_tokens, -math.inf

    def now_and_then(state: SqlCoreState) -> None:
        nonlocal cleaned
        if (now := time.monotonic()) - cleaned >= _CLEANING_SECONDS:
            cleaned = now
            clean(state)

    SqlCoreState._cleanup_expired_task_tokens = now_and_then


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at an address of this machine, and at 127.0.0.1, where its own processes ask.

    Args:
        host: an IPv4 or IPv6 address; "0.0.0.0" is all of IPv4, "::" all of both.

    Raises:
        OSError: it is no address of this machine, or the port is taken.
    """
    address = ipaddress.ip_address(host)
    both = address.version == 6 and address.is_unspecified
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    found = [socket.create_server((host, port), family=family, dualstack_ipv6=both)]
    if not address.is_unspecified and host != _LOCAL:
        found.append(socket.create_server((_LOCAL, port)))
    return found


def serving(app: Callable[[Scope, Receive, Send], Awaitable[None]], **tls: str | None) -> uvicorn.Server:
    """What serves an app; `tls`: files of key and certificate, by uvicorn's names."""
    import uvicorn

    quiet = {"access_log": False, "timeout_graceful_shutdown": 2}
    # Where a request comes from is what the connection says, and no header of it.
    return uvicorn.Server(uvicorn.Config(app, proxy_headers=False, **quiet, **tls))


def main() -> None:
    """Serve until the process is told to end; the command line is that of ``flower-superlink``."""
    hold()
    from importlib import import_module

    from flwr.superlink.main import create_app

    _clean_seldom()
    link = import_module("flwr.superlink.cli.flower_superlink")  # its package hides it behind a function
    config = link._parse_superlink_lifespan_config()
    app = Guard(LongPoll(create_app(config, link.SuperLinkLifespan)))
    server = serving(app, ssl_keyfile=config.ssl_keyfile, ssl_certfile=config.ssl_certfile)
    server.run(sockets=listening(config.host, config.port))


if __name__ == "__main__":
    main()
