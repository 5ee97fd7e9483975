"""What the doctor finds, on this machine, in a federation's folder, in a kit, and at a server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path

import pytest

from mosaic_secure.config import load_config
from mosaic_secure.deployment import doctor, machine_checks
from mosaic_secure.deployment.cards import make_card
from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.doctor import Finding, check_federation, check_kit, diagnose, worst
from mosaic_secure.deployment.founding import found
from mosaic_secure.deployment.kits import load_kit
from mosaic_secure.deployment.machine_checks import (
    check_cores,
    check_disk,
    check_gpu,
    check_memory,
    check_versions,
)
from mosaic_secure.deployment.material import create_ca, issue_server_certificate
from mosaic_secure.deployment.place_checks import check_certificate, check_ledger
from mosaic_secure.deployment.server_checks import check_port, check_reachable, clock_finding
from mosaic_secure.errors import UserError
from privacy.canonical import canonical_json
from privacy.heads import Anchor
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.storage import write_durably

from .conftest import serve

Open = Callable[..., HTTPServer]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def port_of(server: HTTPServer) -> int:
    return server.socket.getsockname()[1]


def found_at(place: Path, port: int) -> FederationDescription:
    return found(place, load_config("digits", {"clients.count": 2}), f"127.0.0.1:{port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def at_port(federation: Path, port: int) -> FederationDescription:
    """The description with another port; a certificate names none."""
    known = FederationDescription.load(federation / "federation.json")
    return replace(known, server=f"127.0.0.1:{port}")


def test_this_machine():
    findings = by_name(diagnose())
    assert {"python", "gpu", "cores", "memory", "disk"} <= set(findings)
    assert all(finding.found for finding in findings.values())
    assert all(finding.advice for finding in findings.values() if finding.status != "ok")


def test_the_worst_counts():
    made = [Finding("a", status, "x") for status in ("warning", "ok", "problem", "warning")]
    assert [worst(made), worst(made[:2]), worst(made[1:2]), worst([])] == ["problem", "warning", "ok", "ok"]


def test_versions_are_held_against_requirements():
    held = check_versions(["numpy>=1", "flwr[x]>=1; extra == 'x'", "nothing; python_version < '3'"], ">=3.11")
    assert [finding.status for finding in held] == ["ok", "ok"]
    assert "numpy" in by_name(held)["versions"].found and "flwr" not in by_name(held)["versions"].found
    off = by_name(check_versions(["numpy<1", "no-such-distribution>=2", "=="], "<3"))
    assert off["numpy"].status == off["no-such-distribution"].status == off["python"].status == "problem"
    assert "is not installed" in off["no-such-distribution"].found
    assert off["versions"].status == "warning"


def test_requirements_are_the_projects_own(monkeypatch: pytest.MonkeyPatch):
    text = "flwr==0.0.*"
    monkeypatch.setattr(
        machine_checks.metadata, "requires", lambda name: [text] if name == "mosaic-secure" else []
    )
    monkeypatch.setattr(machine_checks.metadata, "metadata", lambda _: {"Requires-Python": ">=3.11"})
    assert "but ==0.0.* is required" in by_name(check_versions())["flwr"].found


def test_a_checkout_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine_checks, "DISTRIBUTION", "no-such-distribution")
    assert [finding.status for finding in check_versions()] == ["warning"]


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch):
    def load(name: str) -> None:
        raise OSError("libsomething.so: cannot open shared object file")

    monkeypatch.setattr(machine_checks.importlib, "import_module", load)
    findings = by_name(check_versions([], ""))
    assert findings["tenseal"].status == "problem" and "OSError" in findings["tenseal"].found
    assert check_gpu().status == "warning"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert check_disk(tmp_path).status == "ok" and list(tmp_path.iterdir()) == []
    assert check_disk(tmp_path / "nowhere").status == "problem"
    usage = type(shutil.disk_usage(tmp_path))
    for free, status in ((1 << 20, "problem"), (1 << 30, "warning"), (1 << 40, "ok")):
        monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _, free=free: usage(free, 0, free))
        assert check_disk(tmp_path).status == status


def test_memory_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    meminfo = tmp_path / "meminfo"
    for text, status in (
        ("MemTotal: 9 kB\nMemAvailable:   16000000 kB\n", "ok"),
        ("MemAvailable: 1000000 kB\n", "warning"),
        ("MemAvailable: many\n", "warning"),
        ("", "warning"),
    ):
        meminfo.write_text(text)
        assert check_memory(meminfo).status == status
    assert check_memory(tmp_path / "nowhere").status == "warning"
    for cores, status in (({0}, "warning"), ({0, 1}, "ok")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        assert check_cores().status == status


def test_a_place_that_is_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="neither a federation's folder nor a kit"):
        diagnose(tmp_path)


def test_a_federation_that_is_well(tmp_path: Path):
    found_at(tmp_path / "federation", free_port())
    findings = by_name(check_federation(tmp_path / "federation"))
    assert {name: finding.status for name, finding in findings.items()} == {
        "secrets": "ok",
        "kits": "warning",
        "ca key": "warning",
        "ca": "ok",
        "certificate": "ok",
        "port": "ok",
    }
    shutil.rmtree(tmp_path / "federation" / "kits")
    (tmp_path / "federation" / "ca.key").unlink()
    findings = by_name(check_federation(tmp_path / "federation"))
    assert "kits" not in findings and "ca key" not in findings and findings["secrets"].status == "ok"


def test_every_secret_must_be_private(federation: Path):
    names = {"ca.key", "server.key", "identity.key", "node.key", "runtime.secret"}
    secrets = sorted(path for path in federation.rglob("*") if path.name in names)
    assert len(secrets) == 1 + 2 + 4 * 3
    for path in secrets:
        path.chmod(0o644)
        finding = by_name(check_federation(federation))["secrets"]
        assert finding.status == "problem" and str(path) in finding.found and "0644" in finding.found
        path.chmod(0o600)
    (federation / "kits" / "client-0").chmod(0o755)
    assert by_name(check_federation(federation))["secrets"].status == "warning"
    (federation / "server" / "runtime.secret").unlink()
    assert by_name(check_federation(federation))["secrets"].status == "problem"


def issue(federation: Path, host: str = "127.0.0.1", **options: object) -> None:
    known = FederationDescription.load(federation / "federation.json")
    issue_server_certificate(federation / "server", federation / "ca.key", known.ca, host, **options)


def certificate_finding(federation: Path) -> Finding:
    return check_certificate(federation, FederationDescription.load(federation / "federation.json"))


def test_a_certificate_near_its_end(federation: Path):
    issue(federation, days=29)
    assert certificate_finding(federation).status == "warning"
    issue(federation, days=31)
    assert certificate_finding(federation).status == "ok"
    issue(federation, days=5, now=datetime.now(UTC) - timedelta(days=6))
    finding = certificate_finding(federation)
    assert finding.status == "problem" and "ended" in finding.found and "keys renew" in finding.advice
    issue(federation, now=datetime.now(UTC) + timedelta(days=2))
    assert "begins" in certificate_finding(federation).found


def test_a_certificate_that_does_not_fit(federation: Path, tmp_path: Path):
    server = federation / "server"
    known = FederationDescription.load(federation / "federation.json")
    assert (
        "is not for fl.example.org"
        in check_certificate(federation, replace(known, server="fl.example.org:1")).found
    )
    good = (server / "server.pem").read_bytes()
    other = create_ca(tmp_path / "other.key", known.name)
    issue_server_certificate(server, tmp_path / "other.key", other, "127.0.0.1")
    assert "is not signed by the federation's CA" in certificate_finding(federation).found
    (server / "server.pem").write_bytes(good)
    assert certificate_finding(federation).status == "ok"
    key = (server / "server.key").read_bytes()
    shutil.copy(federation / "ca.key", server / "server.key")
    assert "is not of server.key" in certificate_finding(federation).found
    (server / "server.key").write_bytes(key)
    (server / "ca.pem").write_text(other)
    assert "is not the CA" in certificate_finding(federation).found
    (server / "server.pem").write_bytes(b"junk")
    assert "is damaged" in certificate_finding(federation).found
    (server / "server.pem").unlink()
    assert certificate_finding(federation).status == "problem"


def test_the_port_of_a_server(tmp_path: Path, open_server: Open):
    server = open_server()
    port = port_of(server)
    known = found_at(tmp_path / "federation", port)
    with serve(server, tmp_path / "federation" / "server"):
        assert "held by a server of this federation" in check_port(known).found
    other = open_server()
    found_at(tmp_path / "second", port_of(other))
    with serve(other, tmp_path / "second" / "server"):
        taken = check_port(at_port(tmp_path / "federation", port_of(other)))
        assert taken.status == "problem" and "something else" in taken.found
    assert check_port(at_port(tmp_path / "federation", free_port())).status == "ok"


@pytest.mark.parametrize(
    ("ahead", "status", "named"),
    [
        (0.0, "ok", "agrees"),
        (-60.0, "warning", "ahead of"),
        (60.0, "warning", "behind"),
        (None, "warning", "no time"),
    ],
)
def test_a_server_and_its_clock(
    tmp_path: Path, open_server: Open, ahead: float | None, status: str, named: str
):
    server = open_server(ahead)
    known = found_at(tmp_path / "federation", port_of(server))
    with serve(server, tmp_path / "federation" / "server"):
        findings = by_name(check_reachable(known))
    assert findings["server"].status == "ok"
    assert findings["clock"].status == status and named in findings["clock"].found


@pytest.mark.parametrize(
    ("ahead", "status"), [(4.9, "ok"), (-4.9, "ok"), (5.1, "warning"), (-5.1, "warning")]
)
def test_five_seconds_are_the_limit(ahead: float, status: str):
    assert clock_finding(ahead).status == status


def test_a_server_of_another_ca_is_told(tmp_path: Path, open_server: Open, federation: Path):
    server = open_server()
    found_at(tmp_path / "other", port_of(server))
    with serve(server, tmp_path / "other" / "server"):
        findings = check_reachable(at_port(federation, port_of(server)))
    assert [finding.status for finding in findings] == ["problem"]
    assert "does not vouch for" in findings[0].found and "do not join" in findings[0].advice


def test_a_certificate_for_another_name_is_told(tmp_path: Path, open_server: Open):
    server = open_server(host="127.0.0.2")
    known = found_at(tmp_path / "federation", port_of(server))
    with serve(server, tmp_path / "federation" / "server"):
        findings = check_reachable(replace(known, server=f"127.0.0.2:{port_of(server)}"))
    assert [finding.status for finding in findings] == ["problem"]
    assert "127.0.0.2" in findings[0].found and "do not join" in findings[0].advice


def test_a_server_whose_certificate_ends_soon(tmp_path: Path, open_server: Open):
    server = open_server()
    known = found_at(tmp_path / "federation", port_of(server))
    issue(tmp_path / "federation", days=10)
    with serve(server, tmp_path / "federation" / "server"):
        finding = by_name(check_reachable(known))["server"]
    assert finding.status == "warning" and "keys renew" in finding.advice


def test_a_server_that_is_not_there(federation: Path):
    findings = check_reachable(at_port(federation, free_port()))
    assert [finding.status for finding in findings] == ["problem"]
    assert "cannot be reached" in findings[0].found


def test_a_server_that_says_nothing(federation: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        findings = check_reachable(at_port(federation, silent.getsockname()[1]), timeout=0.2)
    assert findings[0].status == "problem" and "timed out" in findings[0].found


def test_a_server_without_tls(federation: Path):
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            connection, _ = plain.accept()
            with connection, contextlib.suppress(ConnectionResetError):
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400 no\r\n\r\n")
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        findings = check_reachable(at_port(federation, plain.getsockname()[1]))
        thread.join()
    assert findings[0].status == "problem" and "does not speak TLS" in findings[0].found


def test_a_name_that_nobody_knows(federation: Path, monkeypatch: pytest.MonkeyPatch):
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    findings = check_reachable(at_port(federation, 8443))
    assert findings[0].status == "problem" and "cannot be resolved" in findings[0].found


def test_a_kit_that_is_well(tmp_path: Path, open_server: Open):
    server = open_server()
    known = found_at(tmp_path / "federation", port_of(server))
    with serve(server, tmp_path / "federation" / "server"):
        for party in ("client-0", "authority"):
            findings = check_kit(tmp_path / "federation" / "kits" / party)
            assert {finding.status for finding in findings} == {"ok"}, findings
            assert known.fingerprint in by_name(findings)["kit"].found
            assert set(by_name(findings)) == {
                "secrets",
                "kit",
                "rules",
                "ledger",
                "ca",
                "server",
                "clock",
            }


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of a kit without its server, which others look at."""
    monkeypatch.setattr(doctor, "check_reachable", lambda _: [])


@pytest.mark.usefixtures("unreachable")
def test_kits_that_are_not_well(federation: Path):
    kit = federation / "kits" / "client-0"

    def finding(name: str) -> Finding:
        return by_name(check_kit(kit))[name]

    policy = (kit / "policy.toml").read_bytes()
    (kit / "policy.toml").write_bytes(
        policy.replace(b'"private"', b'"secret"').replace(b'"public"', b'"secret"')
    )
    assert finding("rules").status == "problem" and "visibility" in finding("rules").found
    (kit / "policy.toml").unlink()
    assert "is missing" in finding("rules").found
    (kit / "policy.toml").write_bytes(policy)
    known = FederationDescription.load(kit / "federation.json")
    known.revoke("client-0").save(kit / "federation.json")
    assert finding("kit").status == "problem" and "revoked" in finding("kit").found
    other = federation / "kits" / "client-1"
    shutil.copy(other / "identity.key", kit / "identity.key")
    assert "node.key is not the one" in finding("kit").found
    (kit / "federation.json").write_bytes(b"{")
    assert finding("kit").status == "problem"
    make_card(federation / "card", "client-2")
    assert "keys accept" in by_name(check_kit(federation / "card"))["kit"].found


def test_a_ledger_and_its_anchor(federation: Path, tmp_path: Path):
    kit = load_kit(federation / "kits" / "client-0")
    assert check_ledger(kit).status == "ok"
    key = SigningKey.load(kit.path / "identity.key")
    population = kit.description.population
    with Ledger.open(kit.path, population, key, party="client-0") as ledger:
        head = ledger.head
    bare = check_ledger(kit)
    assert bare.status == "warning" and "no anchor" in bare.found

    def anchor(authority: SigningKey) -> None:
        signed = Anchor.create(authority, "client-0", key.public, head)
        write_durably(kit.path / "anchor.json", canonical_json(signed.to_dict()))

    anchor(SigningKey.create(tmp_path / "stranger.key"))
    assert "another key authority" in check_ledger(kit).found
    anchor(SigningKey.load(federation / "kits" / "authority" / "identity.key"))
    assert check_ledger(kit).status == "ok"
    file = kit.path / "ledger.jsonl"
    lines = file.read_bytes()
    file.write_bytes(lines.replace(b"client-0", b"client-1"))
    assert check_ledger(kit).status == "problem"
    file.write_bytes(b"")
    assert check_ledger(kit).status == "problem"
    file.write_bytes(lines)
    assert check_ledger(kit).status == "ok"
    other = load_kit(federation / "kits" / "client-1")
    shutil.copy(file, other.path / "ledger.jsonl")
    assert "another public key" in check_ledger(other).found


@pytest.mark.usefixtures("unreachable")
def test_findings_tell_no_secret(federation: Path):
    names = {"ca.key", "server.key", "identity.key", "node.key", "runtime.secret"}
    secrets = [path.read_bytes() for path in federation.rglob("*") if path.name in names]
    said = [*check_federation(federation), *check_kit(federation / "kits" / "client-0")]
    text = repr([finding.to_dict() for finding in said])
    assert not any(secret.hex() in text or repr(secret)[2:-1] in text for secret in secrets)
