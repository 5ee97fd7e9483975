"""What another machine gets from the SuperLink: a stranger, a node in another's name, a request sent again.

It is Flower's own, of the version that is pinned, as `mosaic-secure serve` starts it, behind the guard.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.superlink.main import create_app

from mosaic_secure.deployment.serving import Server

from .fleet import Link, Node, reply

MOST = 1 << 20
SECONDS = 305  # for which Flower takes what a node has signed: five minutes, and five seconds between clocks


@pytest.fixture(scope="module")
def arguments(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of the SuperLink of a federation."""
    place = Path(shutil.copytree(founded, tmp_path_factory.mktemp("fleet") / "federation"))
    return list(Server(place, "127.0.0.1", None, print)._link.arguments)


def configured(arguments: list[str]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["superlink", *arguments])
        return import_module("flwr.superlink.cli.flower_superlink")._parse_superlink_lifespan_config()


@pytest.fixture(scope="module")
def link(arguments: list[str]) -> Link:
    lifespan = import_module("flwr.superlink.cli.flower_superlink").SuperLinkLifespan
    return Link(create_app(configured(arguments), lifespan), MOST)


def pull(node: Node) -> PullMessagesRequest:
    return PullMessagesRequest(node=NodeProto(node_id=node.node_id))


def requests_of(node: Node) -> list[tuple[str, Any]]:
    """Requests that only `node` may make."""
    named = NodeProto(node_id=node.node_id)
    return [
        ("activate-node", ActivateNodeRequest(public_key=node.public, heartbeat_interval=30)),
        ("pull-messages", pull(node)),
        ("push-messages", PushMessagesRequest(node=named)),
        ("push-object", PushObjectRequest(node=named, object_id="x")),
        ("pull-object", PullObjectRequest(node=named, object_id="x")),
        ("deactivate-node", DeactivateNodeRequest(node_id=node.node_id)),
    ]


def says(link: Link, request: Any) -> list[int]:
    """Numbers of the nodes whose replies to a request the server finds."""
    return [answer.metadata.src_node_id for answer in link.replies(request)]


def test_a_stranger_gets_nothing_and_cannot_let_itself_in(link: Link):
    node, stranger = link.let_in(), Node()
    for what, request in requests_of(node):
        assert link.post(what, request, stranger.headers()).status_code == 401
        assert link.post(what, request, {}).status_code == 401
    for what, request in (
        ("activate-node", ActivateNodeRequest(public_key=stranger.public, heartbeat_interval=30)),
        ("register-node", RegisterNodeFleetRequest(public_key=stranger.public)),
    ):
        assert link.post(what, request, stranger.headers()).status_code == 412
    assert link.state.get_node_id_by_public_key(stranger.public) is None


def test_a_node_gets_nothing_in_the_name_of_another(link: Link):
    node, other = link.let_in(), link.let_in()
    for what, request in requests_of(other):
        assert link.post(what, request, node.headers()).status_code == 401
    assert link.post("pull-messages", pull(node), node.headers()).status_code == 200


def test_a_revoked_node_gets_nothing_any_more(link: Link):
    node = link.let_in()
    assert link.post("pull-messages", pull(node), node.headers()).status_code == 200
    link.put_out(node)
    for what, request in requests_of(node)[1:]:
        assert link.post(what, request, node.headers()).status_code == 401
    assert link.post(*requests_of(node)[0], node.headers()).status_code == 412


def test_a_reply_in_the_name_of_another_node_is_refused_and_spoils_nothing(link: Link):
    """Flower compares a reply with its request only, and would take it of any node that knows its number."""
    node, other = link.let_in(), link.let_in()
    request = link.ask(other)
    forged = reply(request, node, 1)
    assert forged.messages_list[0].metadata.src_node_id == other.node_id
    assert link.post("push-messages", forged, node.headers()).status_code == 403
    forged.messages_list.insert(0, reply(link.ask(node), node, 1).messages_list[0])
    assert link.post("push-messages", forged, node.headers()).status_code == 403
    link.post("push-messages", reply(request, node, 1, src_node_id=node.node_id), node.headers())
    assert says(link, request) == []
    assert link.post("push-messages", reply(request, other, 2), other.headers()).status_code == 200
    assert says(link, request) == [other.node_id]


def test_a_reply_that_is_sent_again_or_followed_by_another_counts_once(link: Link):
    node = link.let_in()
    request, proof = link.ask(node), node.headers()
    first = reply(request, node, 1)
    for pushed in (first, first, reply(request, node, 2)):
        assert link.post("push-messages", pushed, proof).status_code == 200
    (found,) = link.replies(request)
    assert found.metadata.message_id == first.messages_list[0].metadata.message_id
    link.post("push-messages", first, proof)
    assert says(link, request) == []  # it was handed out


@pytest.mark.parametrize(("age", "status"), [(-8, 401), (0, 200), (SECONDS - 5, 200), (SECONDS + 1, 401)])
def test_a_recorded_request_is_refused_after_five_minutes(link: Link, age: float, status: int):
    node = link.let_in()
    assert link.post("pull-messages", pull(node), node.headers(age)).status_code == status


def test_a_proof_is_of_no_other_time_than_it_says(link: Link):
    node = link.let_in()
    old, new = node.headers(SECONDS + 60), node.headers()
    when = next(name for name in new if "timestamp" in name)
    assert link.post("pull-messages", pull(node), {**old, when: new[when]}).status_code == 401


def test_flower_signs_no_more_than_the_time_so_whoever_records_a_request_can_make_others(link: Link):
    """What the threat model leaves to TLS. If this fails, Flower has closed it: say so there."""
    node = link.let_in()
    recorded = node.headers()
    request = link.ask(node)
    taken = link.post("pull-messages", pull(node), recorded)
    (message,) = PullMessagesResponse.FromString(taken.content).messages_list
    assert message.metadata.message_id == request.metadata.message_id
    assert link.post("push-messages", reply(request, node, 1), recorded).status_code == 200
    assert says(link, request) == [node.node_id]


@pytest.mark.parametrize("flag", ["--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile"])
def test_there_is_no_superlink_without_tls(arguments: list[str], flag: str):
    assert configured(arguments).enable_supernode_auth
    place = arguments.index(flag)
    with pytest.raises(SystemExit):
        configured([*arguments[:place], *arguments[place + 2 :]])


def test_a_node_is_given_its_own_messages_and_others_by_their_number_alone(link: Link):
    node, other = link.let_in(), link.let_in()
    request = link.ask(other)
    number = request.metadata.message_id
    given = link.post("pull-messages", pull(node), node.headers())
    assert not PullMessagesResponse.FromString(given.content).messages_list
    assert number != link.ask(node).metadata.message_id  # though it says the same
    named = NodeProto(node_id=node.node_id)

    def found(number: str) -> bool:
        asked = PullObjectRequest(node=named, run_id=link.run_id, object_id=number)
        answer = link.post("pull-object", asked, node.headers())
        return PullObjectResponse.FromString(answer.content).object_found

    assert found(number) and not found(number[::-1])
    given = link.post("pull-messages", pull(other), other.headers())
    (message,) = PullMessagesResponse.FromString(given.content).messages_list
    assert message.metadata.message_id == number
    received = ConfirmMessageReceivedRequest(node=named, run_id=link.run_id, message_object_id=number)
    link.post("confirm-message-received", received, node.headers())
    assert not found(number)  # so the other does not get it


def test_oversized_messages_are_refused_before_flower_reads_them(link: Link):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * (MOST // 4)

    node = link.let_in()
    for body in (b"x" * (MOST + 1), pieces()):
        assert link.post("push-object", body, node.headers()).status_code == 413
    assert link.post("push-object", b"x" * MOST, node.headers()).status_code == 401  # Flower read it
