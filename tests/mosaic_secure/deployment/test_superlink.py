"""The guard before the SuperLink: what other machines may reach, and how much they may send."""

from __future__ import annotations

import asyncio
import socket
import threading
from importlib import import_module
from typing import Any

import httpx
import pytest
from flwr.supercore.corestate.sql_corestate import SqlCoreState

from mosaic_secure.deployment.superlink import FLEET, Guard, _clean_seldom, listening, serving


async def _read_all(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with the number of bytes it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def ask(path: str, client: str, content: Any = b"", most: int = 100) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(Guard(_read_all, most), client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as link:
            return await link.post(path, content=content)

    return asyncio.run(answer())


@pytest.mark.parametrize(
    "client", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::7", "testclient", "127.0.0.1.example.org"]
)
@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/", "/v1"],
)
def test_other_machines_reach_nothing_but_fleet(path: str, client: str):
    assert ask(path, client).status_code == 403
    assert ask(f"{FLEET}pull-messages", client).status_code == 200


@pytest.mark.parametrize("path", [f"{FLEET}../control/start-run", "//v1/control/start-run", "/v1/fleetx"])
def test_a_path_that_only_looks_like_fleet_is_refused(path: str):
    assert ask(path, "10.0.0.7").status_code == 403


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_reaches_all(client: str):
    assert ask("/v1/control/start-run", client, b"12345").text == "5"


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("0.0.0.0", {"127.0.0.1", "127.0.0.2"}),
        ("127.0.0.1", {"127.0.0.1"}),
        ("127.0.0.2", {"127.0.0.1", "127.0.0.2"}),
        ("::1", {"127.0.0.1", "::1"}),
        ("::", {"127.0.0.1", "127.0.0.2", "::1"}),
    ],
)
def test_own_processes_reach_a_server_that_listens_at_one_address(host: str, reached: set[str]):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opened = listening(host, port)
    try:
        assert {place for place in ("127.0.0.1", "127.0.0.2", "::1") if _connects(place, port)} == reached
    finally:
        for one in opened:
            one.close()


def test_no_header_says_where_a_request_comes_from(monkeypatch: pytest.MonkeyPatch):
    """Or a request from afar could say that it comes from this machine."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    opened = listening("127.0.0.1", 0)
    server = serving(Guard(_read_all))
    thread = threading.Thread(target=server.run, kwargs={"sockets": opened})
    thread.start()
    try:
        place = f"http://127.0.0.1:{opened[0].getsockname()[1]}/v1/control/start-run"
        said = httpx.post(place, content=b"12", headers={"X-Forwarded-For": "10.0.0.7"}, trust_env=False)
        assert (said.status_code, said.text) == (200, "2")
    finally:
        server.should_exit = True
        thread.join()


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def test_bodies_beyond_the_limit_are_refused_declared_or_not():
    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * 30

    path = f"{FLEET}push-object"
    assert ask(path, "10.0.0.7", b"x" * 100).text == "100"
    assert ask(path, "10.0.0.7", b"x" * 101).status_code == 413
    assert ask(path, "10.0.0.7", pieces()).status_code == 413


def test_the_app_is_given_a_body_in_one_piece():
    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * 20

    calls: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def noted() -> Any:
            message = await receive()
            calls.append(message.get("body", b""))
            return message

        await _read_all(scope, noted, send)

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(Guard(app, 100), client=("10.0.0.7", 5000))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as link:
            return await link.post(f"{FLEET}push-object", content=pieces())

    assert asyncio.run(answer()).text == "100" and calls == [b"x" * 100]


def test_flower_cleans_up_at_most_once_in_a_while(monkeypatch: pytest.MonkeyPatch):
    cleaned: list[object] = []
    monkeypatch.setattr(SqlCoreState, "_cleanup_expired_task_tokens", cleaned.append)
    now = iter([0.0, 0.5, 0.99, 1.0, 1.5, 2.0])
    monkeypatch.setattr("mosaic_secure.deployment.superlink.time.monotonic", lambda: next(now))
    _clean_seldom()
    for number in range(6):
        SqlCoreState._cleanup_expired_task_tokens(number)
    assert cleaned == [0, 3, 5]


def test_what_is_taken_from_flower_is_there():
    """The pinned version's internals that the children of this package stand on."""
    link = import_module("flwr.superlink.cli.flower_superlink")
    assert callable(link._parse_superlink_lifespan_config) and callable(link.SuperLinkLifespan)
    prefixes = [
        import_module(f"flwr.superlink.routers.{name}.router").router.prefix for name in ("fleet", "control")
    ]
    assert prefixes == ["/v1/fleet", "/v1/control"] and FLEET == "/v1/fleet/"
    loop = import_module("flwr.supernode.start_client_internal")
    for name in ("time", "http_request_response", "_pull_and_store_message"):
        assert hasattr(loop, name), name
