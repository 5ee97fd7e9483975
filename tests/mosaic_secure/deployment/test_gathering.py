"""Which node is which party: by the key it was let in with, and by what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.deployment import gathering
from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.founding import load_federation
from mosaic_secure.deployment.gathering import gather
from mosaic_secure.engine.discovery import DiscoveryError
from mosaic_secure.protocol.codec import reply_to
from mosaic_secure.protocol.messages import HelloReply


class _Nodes:
    """A grid whose nodes answer a greeting as `says` tells, party by party."""

    def __init__(
        self, federation: FederationDescription, here: tuple[str, ...], **says: dict[str, Any]
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._parties = {100 + index: federation.find(party) for index, party in enumerate(here)}
        self._says = {party.replace("_", "-"): told for party, told in says.items()}

    def node_keys(self) -> dict[int, bytes]:
        return {
            node: load_ssh_public_key(party.node_key.encode()).public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            for node, party in self._parties.items()
        }

    def send_and_receive(self, messages: list[Message], timeout: float) -> list[Message]:
        assert self.most_bytes <= 1 << 16  # of greetings too, no more is taken than they need
        out = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
            party = self._parties[message.metadata.dst_node_id]
            told = self._says.get(party.party, {})
            if told is None:
                continue
            true = {
                "role": party.role,
                "party": party.party,
                "version": "1",
                "identity": bytes.fromhex(party.identity),
            }
            out.append(reply_to(message, HelloReply(**{**true, **told})))
        return out


ALL = ("client-0", "client-1", "client-2", "authority")


@pytest.fixture
def known(founded: Path) -> FederationDescription:
    return load_federation(founded)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gathering, "_POLL_SECONDS", 0.01)


def found(
    grid: _Nodes, federation: FederationDescription, fewest: int = 2
) -> tuple[dict[str, int], list[str]]:
    notes: list[str] = []
    times = {"grace": 0.05, "patience": 0.2}
    nodes = gather(grid, federation, fewest, version="1", note=notes.append, **times)
    return {party: node.node_id for party, node in nodes.items()}, notes


def test_all_are_found_and_nobody_is_waited_for(known: FederationDescription):
    nodes, notes = found(_Nodes(known, ALL), known)
    assert nodes == {"authority": 103, "client-0": 100, "client-1": 101, "client-2": 102} and notes == []


def test_a_run_starts_without_those_who_do_not_come(known: FederationDescription):
    nodes, notes = found(_Nodes(known, ("authority", "client-2", "client-1")), known)
    assert sorted(nodes) == ["authority", "client-1", "client-2"] and notes == ["waits for client-0"]


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (("client-0", "client-1", "client-2"), "the key authority is not there"),
        (("authority", "client-1"), "1 of 3 clients are there, the plan needs 2"),
        ((), "the key authority"),
    ],
)
def test_it_does_not_start_without_enough(known: FederationDescription, here: tuple[str, ...], says: str):
    with pytest.raises(DiscoveryError, match=says):
        found(_Nodes(known, here), known)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"party": "client-1"}, "somebody else"),
        ({"identity": b"x" * 32}, "somebody else"),
        ({"role": "authority"}, "another role"),
        ({"version": "2"}, "runs version 2"),
        (None, "does not answer"),
    ],
)
def test_a_node_that_says_it_is_somebody_else_takes_no_part(
    known: FederationDescription, told: Any, why: str
):
    nodes, notes = found(_Nodes(known, ALL, client_0=told), known)
    assert "client-0" not in nodes and len(nodes) == 3
    assert notes and notes[0].startswith("goes on without client-0") and why in notes[0]


def test_an_authority_that_is_not_itself_ends_it(known: FederationDescription):
    with pytest.raises(DiscoveryError, match="key authority"):
        found(_Nodes(known, ALL, authority={"identity": b"x" * 32}), known)


def test_a_node_with_a_key_of_nobody_is_nobody(known: FederationDescription):
    strangers = replace(known.parties[0], node_key=known.parties[-1].node_key)
    grid = _Nodes(known, ALL)
    grid._parties[100] = replace(strangers, node_key=_other_key())
    nodes, _ = found(grid, known)
    assert sorted(nodes) == ["authority", "client-1", "client-2"]


def test_a_revoked_client_takes_no_part_though_its_node_is_there(known: FederationDescription):
    nodes, notes = found(_Nodes(known, ALL), known.revoke("client-1"))
    assert sorted(nodes) == ["authority", "client-0", "client-2"] and notes == []


def _other_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import ec

    from mosaic_secure.deployment.description import node_key_line

    return node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key())
