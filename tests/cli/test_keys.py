"""`mosaic-secure keys` and `doctor` as they are typed: what they leave, say and refuse."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

SERVER = ("--server", "localhost:8443")
THREE = ("--config", "digits", "--clients", 3)
SECRETS = {"ca.key", "server.key", "identity.key", "node.key", "runtime.secret"}


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    return tmp_path / "fed"


def secrets_under(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.name in SECRETS]


def assert_tells_none(text: str, secrets: list[bytes]) -> None:
    assert secrets and "PRIVATE KEY" not in text
    for secret in secrets:
        assert secret.hex() not in text and secret.decode("latin-1") not in text
        for line in secret.split(b"\n"):
            assert len(line) < 40 or line.decode("latin-1") not in text


def test_from_founding_to_renewal(mosaic, fed: Path):
    made = mosaic("keys", "init", fed, *THREE, *SERVER, "--name", "ward", "--json")
    assert made.status == 0 and made.err == ""
    fingerprint = made.json["fingerprint"]
    assert made.json["name"] == "ward" and made.json["population"] == "digits-3"
    assert [row["party"] for row in made.json["parties"]] == ["client-0", "client-1", "client-2", "authority"]
    assert f"Tell every party the fingerprint by voice: {fingerprint}" in made.out

    shown = mosaic("keys", "show", fed, "--json")
    assert shown.status == 0 and shown.json["fingerprint"] == fingerprint
    assert shown.json["server_certificate_until"] < shown.json["ca_until"] and not shown.json["revoked"]
    kit = mosaic("keys", "show", fed / "kits" / "client-1", "--json")
    assert kit.json["party"] == "client-1" and kit.json["fingerprint"] == fingerprint

    gone = mosaic("keys", "revoke", fed, "client-2", "--json")
    assert gone.status == 0 and gone.json == {"revoked": ["client-2"], "clients_left": 2}
    assert json.loads((fed / "federation.json").read_bytes())["revoked"] == ["client-2"]
    shown = mosaic("keys", "show", fed, "--json")
    assert shown.json["revoked"] == ["client-2"] and shown.json["fingerprint"] == fingerprint
    assert [row["revoked"] for row in shown.json["parties"]] == [False, False, True, False]

    before = (fed / "server" / "server.pem").read_bytes()
    renewed = mosaic("keys", "renew", fed, "--json")
    assert renewed.status == 0 and (fed / "server" / "server.pem").read_bytes() != before


def test_with_cards(mosaic, fed: Path, tmp_path: Path):
    kit = tmp_path / "kit"
    card = mosaic("keys", "card", kit, "--party", "client-1", "--json")
    assert card.status == 0 and card.json["public"]["party"] == "client-1"
    assert "keys accept" in mosaic("keys", "show", kit).refusal
    made = mosaic("keys", "init", fed, *THREE, *SERVER, "--card", kit / "card.json", "--json")
    rows = {row["party"]: row for row in made.json["parties"]}
    assert rows["client-1"]["kit"] == "its own" and rows["client-1"]["identity"] == card.json["identity"]
    assert not (fed / "kits" / "client-1").exists()

    file, told = fed / "federation.json", ("--fingerprint", made.json["fingerprint"])
    assert "by voice" in mosaic("keys", "accept", kit, file, "--fingerprint", "00", *THREE[:2]).refusal
    assert not (kit / "policy.toml").exists()
    taken = mosaic("keys", "accept", kit, file, *told, "--config", "digits", "--json")
    assert taken.status == 0 and taken.json["wrote_rules"] and taken.json["party"] == "client-1"
    for field in ("max_epsilon_per_run", "max_epsilon_lifetime", "trust", "roster"):
        assert field in taken.out
    own = (kit / "policy.toml").read_bytes()
    again = mosaic("keys", "accept", kit, file, *told)
    assert again.status == 0 and "kept as it is" in again.out
    assert (kit / "policy.toml").read_bytes() == own


def test_the_authority_is_told_what_it_insists_on(mosaic, fed: Path, tmp_path: Path):
    kit = tmp_path / "kit"
    mosaic("keys", "card", kit, "--party", "authority")
    made = mosaic("keys", "init", fed, *THREE, *SERVER, "--card", kit / "card.json", "--json")
    taken = mosaic("keys", "accept", kit, fed / "federation.json", "--fingerprint", made.json["fingerprint"])
    assert taken.status == 0 and "min_contributors" in taken.out and "terms.json" in taken.out


def test_no_command_tells_a_secret(mosaic, fed: Path, tmp_path: Path):
    kit = tmp_path / "kit"
    said = [mosaic("keys", "card", kit, "--party", "client-0", "--json")]
    said.append(mosaic("keys", "init", fed, *THREE, *SERVER, "--card", kit / "card.json", "--json"))
    told = ("--fingerprint", said[-1].json["fingerprint"])
    said.append(mosaic("keys", "accept", kit, fed / "federation.json", *told, "--json"))
    said += [mosaic("keys", "show", place, "--json") for place in (fed, kit)]
    said += [mosaic("keys", "renew", fed), mosaic("keys", "revoke", fed, "client-1")]
    (fed / "kits" / "client-1" / "node.key").chmod(0o644)
    said.append(mosaic("keys", "show", fed / "kits" / "client-1"))
    assert [outcome.status for outcome in said] == [0] * 7 + [2]
    assert_tells_none("".join(outcome.out + outcome.err for outcome in said), secrets_under(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["init", "{new}"], "--server"),
        (["init", "{new}", "--server", "nowhere"], "HOST:PORT"),
        (["init", "{new}", "--server", "0.0.0.0:8443"], "HOST:PORT"),
        (["init", "{new}", *SERVER, "--config", "nothing"], "config 'nothing': unknown"),
        (["init", "{new}", *SERVER, "--clients", "1"], "clients.count = 1"),
        (["init", "{new}", *SERVER, "--set", "method=central", "--clients", "1"], "method = 'central'"),
        (["init", "{new}", *SERVER, "--name", "a/b"], "name = 'a/b'"),
        (["init", "{new}", *SERVER, "--cards-only"], "--card"),
        (["init", "{new}", *SERVER, "--card", "{fed}/federation.json"], "is missing"),
        (["init", "{new}", *SERVER, "--card", "{fed}/nowhere"], "No such file"),
        (["init", "{fed}", *SERVER], "not an empty folder"),
        (["card", "{new}", "--party", "client-x"], "client-0 to client-999"),
        (["card", "{fed}", "--party", "client-1"], "not an empty folder"),
        (
            ["accept", "{fed}/kits/client-0", "{fed}/federation.json", "--fingerprint", "0"],
            "card.json: is missing",
        ),
        (["accept", "{fed}/kits/client-0", "{fed}/federation.json"], "--fingerprint"),
        (["show", "{new}"], "no such folder"),
        (["show", "{fed}/server"], "is no kit"),
        (["revoke", "{fed}", "client-5"], "client-0 to client-2"),
        (["revoke", "{fed}", "authority"], "cannot be revoked"),
        (["revoke", "{new}", "client-0"], "is no folder of a federation"),
        (["renew", "{fed}/kits"], "is no folder of a federation"),
    ],
)
def test_bad_input_is_one_line(mosaic, fed: Path, tmp_path: Path, arguments: list[str], named: str):
    assert mosaic("keys", "init", fed, *THREE, *SERVER).status == 0
    before = {path: path.read_bytes() for path in fed.rglob("*") if path.is_file()}
    places = {"new": tmp_path / "new", "fed": fed}
    given = [str(argument).format(**places) for argument in arguments]
    assert named in mosaic("keys", *given).refusal
    assert not places["new"].exists() and list(tmp_path.iterdir()) == [fed]
    assert {path: path.read_bytes() for path in fed.rglob("*") if path.is_file()} == before


def test_a_damaged_description_is_named(mosaic, fed: Path):
    mosaic("keys", "init", fed, *THREE, *SERVER)
    (fed / "federation.json").write_bytes(b'{"name":"x"}')
    refusal = mosaic("keys", "show", fed).refusal
    assert str(fed / "federation.json") in refusal and "schema_version: is missing" in refusal


def test_the_doctor_of_a_machine_and_of_a_federation(mosaic, fed: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mosaic("keys", "init", fed, *THREE, "--server", f"localhost:{port}")
    well = mosaic("doctor", fed, "--json")
    assert well.status == 0, well.out
    assert well.json["verdict"] == "warning"
    names = {finding["name"] for finding in well.json["findings"]}
    assert {"python", "disk", "secrets", "certificate", "port"} <= names
    (fed / "ca.key").chmod(0o644)
    bad = mosaic("doctor", fed, "--json")
    assert bad.status == 1 and bad.json["verdict"] == "problem" and bad.err == ""
    assert "chmod 600" in bad.out
    alone = mosaic("doctor", "--json")
    assert {finding["name"] for finding in alone.json["findings"]} < names
    assert mosaic("doctor", fed / "kits" / "client-0").status == 1  # no server is running


def test_the_doctor_refuses_other_places(mosaic, tmp_path: Path):
    assert "neither a federation's folder nor a kit" in mosaic("doctor", tmp_path).refusal
