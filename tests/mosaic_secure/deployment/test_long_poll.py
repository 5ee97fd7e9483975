"""When a node that asks for messages gets its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import httpx
import pytest

from mosaic_secure.deployment.long_poll import ASKED, HOLD_SECONDS, SENT, LongPoll

LONG = 30.0  # never to its end here


class Link:
    """An app with messages for nodes, one a question; a question may be let through later."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.status, self.asked = 200, 0
        self.slow = asyncio.Event()
        self.slow.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["path"] == SENT:
            self.messages.append((await receive())["body"])
        elif scope["path"] == ASKED:
            self.asked += 1
            body = self.messages.pop(0) if self.messages else b""
            await self.slow.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": body[:1], "more_body": True})
        await send({"type": "http.response.body", "body": body[1:]})


Talk = Callable[[httpx.AsyncClient, Link], Awaitable[None]]


def talk(what: Talk, hold: float = LONG) -> None:
    async def run() -> None:
        link = Link()
        transport = httpx.ASGITransport(LongPoll(link, hold))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as client:
            await asyncio.wait_for(what(client, link), LONG / 2)

    asyncio.run(run())


async def _seen(link: Link, questions: int) -> None:
    while link.asked < questions:
        await asyncio.sleep(0)
    for _ in range(20):  # let the answers come as far as they will
        await asyncio.sleep(0)


def test_a_message_that_is_there_is_answered_with_at_once():
    async def what(client: httpx.AsyncClient, link: Link) -> None:
        await client.post(SENT, content=b"work")
        assert (await client.post(ASKED)).content == b"work"

    talk(what)


def test_all_who_wait_are_answered_when_the_server_sends_something():
    async def what(client: httpx.AsyncClient, link: Link) -> None:
        waiting = [asyncio.create_task(client.post(ASKED)) for _ in range(3)]
        await _seen(link, 3)
        assert not any(task.done() for task in waiting)
        await client.post(SENT, content=b"work")
        assert [(await task).content for task in waiting] == [b"", b"", b""]
        assert (await client.post(ASKED)).content == b"work"

    talk(what)


def test_what_is_sent_while_a_question_is_looked_at_is_not_slept_through():
    async def what(client: httpx.AsyncClient, link: Link) -> None:
        link.slow.clear()
        task = asyncio.create_task(client.post(ASKED))
        await _seen(link, 1)  # it has found nothing, and has not answered
        await client.post(SENT, content=b"work")
        link.slow.set()
        assert (await task).content == b""

    talk(what)


def test_an_answer_is_not_held_back_for_ever():
    async def what(client: httpx.AsyncClient, link: Link) -> None:
        assert (await client.post(ASKED)).content == b""

    talk(what, hold=0.05)


@pytest.mark.parametrize(("path", "status"), [(ASKED, 401), ("/v1/fleet/pull-object", 200), ("/", 200)])
def test_nothing_else_waits_and_no_stranger_is_held(path: str, status: int):
    async def what(client: httpx.AsyncClient, link: Link) -> None:
        link.status = status
        assert (await client.post(path)).status_code == status

    talk(what)


def test_flower_has_these_paths_and_more_patience():
    for name, path in (("fleet", ASKED), ("runtime", SENT)):
        routers = "superlink" if name == "fleet" else "supercore"
        router = import_module(f"flwr.{routers}.routers.{name}.router").router
        assert path in {route.path for route in router.routes}
    patience = import_module("flwr.supernode.fleet_http_client").HEARTBEAT_CALL_TIMEOUT
    assert patience >= 2 * HOLD_SECONDS
