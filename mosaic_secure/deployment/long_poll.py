"""Nodes that ask for messages when there are none get their answer once there may be some.

Flower's nodes ask, and ask again after a pause. Pauses that are short enough for a run of fifty exchanges are
a load that grows with the number of nodes, whether or not there is anything to do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["LongPoll"]

ASKED = "/v1/fleet/pull-messages"
SENT = "/v1/runtime/push-messages"
HOLD_SECONDS = 2.0
"""How long an answer is held back; Flower's nodes give up on a request after five seconds."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class LongPoll:
    """ASGI middleware: holds back answers that are empty until the server sends messages, or a while."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], hold: float = HOLD_SECONDS
    ) -> None:
        self._app, self._hold = app, hold
        self._news = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path")
        await self._app(scope, receive, self._held(send) if path == ASKED else send)
        if path == SENT:
            news, self._news = self._news, asyncio.Event()
            news.set()

    def _held(self, send: Send) -> Send:
        news = self._news  # what is sent from here on may not be in the answer
        start: list[Message] = []

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.append(message)
                return
            if start and not message.get("body"):
                if message.get("more_body"):
                    return
                if start[0]["status"] == 200:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), self._hold)
            if start:
                await send(start.pop())
            await send(message)

        return held
