"""The public description: what it accepts, what it refuses, and what its fingerprint covers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.deployment.description import FederationDescription, node_key_line, parse_address
from mosaic_secure.deployment.material import create_ca
from mosaic_secure.errors import UserError
from privacy.canonical import canonical_json


@pytest.fixture(scope="module")
def known(founded: Path) -> FederationDescription:
    return FederationDescription.load(founded / "federation.json")


def test_it_is_stored_and_read_as_it_was(known: FederationDescription, tmp_path: Path):
    known.save(tmp_path / "federation.json")
    assert FederationDescription.load(tmp_path / "federation.json") == known
    assert FederationDescription.from_dict(known.to_dict()) == known


def test_properties(known: FederationDescription):
    assert [party.party for party in known.clients] == ["client-0", "client-1", "client-2"]
    assert [party.index for party in known.clients] == [0, 1, 2]
    assert known.authority.party == "authority" and known.authority.role == "authority"
    assert list(known.roster) == ["client-0", "client-1", "client-2", "authority"]
    assert known.pinned == {k: v for k, v in known.roster.items() if k != "authority"}
    assert (known.host, known.port) == ("127.0.0.1", 8443)


def test_the_order_of_parties_does_not_matter(known: FederationDescription):
    turned = replace(known, parties=known.parties[::-1])
    assert turned == known and turned.fingerprint == known.fingerprint


def test_a_node_key_is_found_in_both_spellings(known: FederationDescription):
    party = known.clients[1]
    public = serialization.load_ssh_public_key(party.node_key.encode())
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert known.party_of_node_key(pem) == known.party_of_node_key(party.node_key.encode()) == party
    stranger = node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key())
    assert known.party_of_node_key(stranger.encode()) is None
    for junk in (b"", b"junk", b"-----BEGIN PUBLIC KEY-----\n", b"\xff" * 90):
        assert known.party_of_node_key(junk) is None


def test_revoking_changes_no_fingerprint(known: FederationDescription):
    changed = known.revoke("client-2").revoke("client-0").revoke("client-2")
    assert changed.revoked == ("client-0", "client-2")
    assert changed.fingerprint == known.fingerprint
    with pytest.raises(UserError, match="revoked = 'authority'"):
        known.revoke("authority")


@pytest.mark.parametrize(
    "changes",
    [{"name": "another"}, {"server": "127.0.0.1:8444"}, {"population": "patients"}],
)
def test_the_fingerprint_covers_each_field(known: FederationDescription, changes: dict[str, str]):
    assert replace(known, **changes).fingerprint != known.fingerprint


def test_the_fingerprint_covers_ca_and_keys(known: FederationDescription, tmp_path: Path):
    other = create_ca(tmp_path / "ca.key", "x")
    assert replace(known, ca=other).fingerprint != known.fingerprint
    first, second, *rest = known.parties
    swapped = (
        replace(first, identity=second.identity),
        replace(second, identity=first.identity),
        *rest,
    )
    assert replace(known, parties=swapped).fingerprint != known.fingerprint


def test_a_fingerprint_may_be_told_in_other_groups(known: FederationDescription):
    plain = known.fingerprint.replace("-", "")
    assert len(plain) == 32
    for told in (known.fingerprint, plain, plain.upper(), " ".join(plain), plain[:16] + " : " + plain[16:]):
        assert known.matches(told)
    for told in ("", plain[:16], plain + "0", "0" * 32):
        assert not known.matches(told)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *place, last, value = path

    def change(data: dict[str, Any]) -> None:
        for step in place:
            data = data[step]
        data[last] = value

    return change


def _swap_keys(field: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["parties"][1].update({field: data["parties"][0][field]})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_set("schema_version", 2), "schema_version = 2: must be 1"),
        (_set("schema_version", True), "schema_version = True"),
        (_set("extra", 1), "'extra': unknown"),
        (lambda data: data.pop("ca"), "ca: is missing"),
        (_set("name", "a b"), "name = 'a b'"),
        (_set("name", 3), "name = 3"),
        (_set("population", "../up"), "population = '../up'"),
        (_set("server", "nowhere"), "server = 'nowhere'"),
        (_set("ca", "hello"), "ca = 'hello'"),
        (_set("parties", {}), "parties = {}"),
        (_set("parties", ["x"]), "parties = 'x'"),
        (_set("parties", 0, "identity", "A" * 64), "parties.client-0.identity"),
        (_set("parties", 0, "identity", 5), "parties.client-0.identity = 5"),
        (_set("parties", 0, "node_key", "ssh-ed25519 AAAA"), "parties.client-0.node_key"),
        (_set("parties", 0, "node_key", "\ud800"), "parties.client-0.node_key"),
        (_set("parties", 0, "role", "authority"), "parties.client-0.role"),
        (_set("parties", 0, "party", "client-00"), "party = 'client-00'"),
        (_set("parties", 0, "party", "client-7"), "client-0, client-1 and on"),
        (lambda data: data["parties"].pop(), "exactly one 'authority'"),
        (lambda data: data["parties"].append(data["parties"][-1]), "exactly one 'authority'"),
        (lambda data: data.update(parties=data["parties"][2:]), "client-0, client-1 and on"),
        (_swap_keys("identity"), "parties.client-1.identity: is that of client-0"),
        (_swap_keys("node_key"), "parties.client-1.node_key: is that of client-0"),
        (_set("revoked", "client-1"), "revoked = 'client-1': must be a list"),
        (_set("revoked", ["client-9"]), "revoked = 'client-9'"),
        (_set("revoked", [{}]), "revoked = {}"),
    ],
)
def test_what_is_wrong_is_named(
    known: FederationDescription, tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
):
    data = json.loads(canonical_json(known.to_dict()))
    change(data)
    path = tmp_path / "federation.json"
    path.write_bytes(canonical_json(data))
    with pytest.raises(UserError) as refused:
        FederationDescription.load(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ") and named in text and "\n" not in text


def test_a_node_key_of_another_curve_or_with_a_comment(known: FederationDescription):
    party = known.clients[0]
    p256 = node_key_line(ec.generate_private_key(ec.SECP256R1()).public_key())
    for line in (p256, f"{party.node_key} me@home", f"{party.node_key}\n"):
        with pytest.raises(UserError, match="node_key"):
            replace(party, node_key=line)


def test_a_certificate_that_may_not_sign_is_no_ca(known: FederationDescription, founded: Path):
    server = (founded / "server" / "server.pem").read_text()
    for text in (server, known.ca + server, known.ca + "\n", "x" + known.ca):
        with pytest.raises(UserError, match="^ca = "):
            replace(known, ca=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fl.example.org:8443", ("fl.example.org", 8443)),
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.7:65535", ("10.0.0.7", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":80",
        "host:",
        "host:0",
        "host:65536",
        "host:08",
        "host:8443/",
        "https://host:8443",
        "ho st:1",
        "-a.b:1",
        "a..b:1",
        "1.2.3:4",
        "1.2.3.400:4",
        "2001:db8::1:443",
        "[10.0.0.7]:443",
        "0.0.0.0:443",
        "[::]:443",
        "h\u00e4user.example:1",
        "x" * 254 + ":1",
        8443,
        None,
    ],
)
def test_addresses_that_nobody_reaches(text: object):
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_address(text)


def test_files_that_are_no_description(known: FederationDescription, tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        FederationDescription.load(tmp_path / "nowhere.json")
    path = tmp_path / "federation.json"
    plain = canonical_json(known.to_dict())
    twice = b'{"name":"shown",' + plain[1:]
    for data in (
        b"",
        b"[]",
        b"\xff",
        b"{",
        b"1" * 9999,
        json.dumps(known.to_dict(), indent=1).encode(),
        twice,
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match="unedited"):
            FederationDescription.load(path)
    path.write_bytes(plain + b"\n")  # what mail adds at the end
    assert FederationDescription.load(path) == known


@given(data=st.data())
def test_no_tampering_keeps_the_fingerprint(
    known: FederationDescription, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    text = bytearray(canonical_json(known.to_dict()))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        kind = data.draw(st.sampled_from(("put", "drop", "add")))
        if kind == "drop":
            del text[place]
        elif kind == "put":
            text[place] = data.draw(st.integers(0, 255))
        else:
            text.insert(place, data.draw(st.integers(32, 126)))
    path = tmp_path_factory.getbasetemp() / "tampered.json"
    path.write_bytes(bytes(text))
    try:
        found = FederationDescription.load(path)
    except UserError as refused:
        assert "\n" not in str(refused)
        return
    if found.fingerprint == known.fingerprint:
        assert replace(found, revoked=known.revoked) == known
