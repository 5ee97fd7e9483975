"""Certificates that a real TLS handshake accepts, keys that Flower reads, secrets that others cannot."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mosaic_secure.config import load_config
from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.founding import found, renew
from mosaic_secure.deployment.kits import load_kit
from mosaic_secure.deployment.material import (
    certifies,
    create_ca,
    create_party_keys,
    issue_server_certificate,
    read_public_keys,
    read_secret,
)
from mosaic_secure.errors import UserError
from privacy.errors import PrivacyError
from privacy.policy import ClientPolicy

SECRETS = {"ca.key", "server.key", "identity.key", "node.key", "runtime.secret"}


def handshake(folder: Path, ca: str, name: str) -> str:
    """Shake hands over loopback as client of `name`; returns the word that came through."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cadata=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            raw, _ = listening.accept()
            try:
                with server.wrap_socket(raw, server_side=True) as wrapped:
                    wrapped.sendall(b"hello")
            except OSError:
                raw.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=name) as wrapped,
            ):
                return wrapped.recv(5).decode()
        finally:
            thread.join()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    ca = create_ca(tmp_path / "ca.key", "ward")
    issue_server_certificate(tmp_path, tmp_path / "ca.key", ca, "fl.example.org")
    return tmp_path, ca


@pytest.mark.parametrize("name", ["fl.example.org", "localhost", "127.0.0.1", "::1"])
def test_a_handshake_under_each_name(made: tuple[Path, str], name: str):
    assert handshake(*made, name) == "hello"


def test_a_handshake_under_another_name_or_ca_fails(made: tuple[Path, str], tmp_path: Path):
    folder, ca = made
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(folder, ca, "evil.example.org")
    other = create_ca(tmp_path / "other" / "ca.key", "ward")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(folder, other, "fl.example.org")


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "2001:db8::1", "localhost", "127.0.0.1", "x" * 60 + ".example.org"]
)
def test_hosts_of_every_kind(tmp_path: Path, host: str):
    ca = create_ca(tmp_path / "ca.key", "n" * 100)
    certificate = issue_server_certificate(tmp_path, tmp_path / "ca.key", ca, host)
    assert certifies(certificate, host) and certifies(certificate, "localhost")
    assert not certifies(certificate, "10.9.9.9") and not certifies(certificate, "other.example.org")
    assert handshake(tmp_path, ca, host) == "hello"


def test_validity(made: tuple[Path, str], tmp_path: Path):
    folder, ca = made
    now = datetime.now(UTC)
    root = x509.load_pem_x509_certificate(ca.encode())
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    assert root.not_valid_before_utc < now and server.not_valid_before_utc < now
    assert abs(root.not_valid_after_utc - now - timedelta(days=3652)) < timedelta(minutes=10)
    assert abs(server.not_valid_after_utc - now - timedelta(days=825)) < timedelta(minutes=10)
    short = create_ca(tmp_path / "short" / "ca.key", "x", days=10)
    cut = issue_server_certificate(tmp_path / "short", tmp_path / "short" / "ca.key", short, "h")
    assert cut.not_valid_after_utc == x509.load_pem_x509_certificate(short.encode()).not_valid_after_utc


def test_a_ca_that_ran_out_issues_nothing(tmp_path: Path):
    ca = create_ca(tmp_path / "ca.key", "x", days=10, now=datetime.now(UTC) - timedelta(days=11))
    with pytest.raises(UserError, match="ran out"):
        issue_server_certificate(tmp_path, tmp_path / "ca.key", ca, "h")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key"]


def test_a_renewal_holds_with_the_same_ca(federation: Path):
    known = FederationDescription.load(federation / "federation.json")
    before = (federation / "server" / "server.pem").read_bytes()
    renewed = renew(federation)
    assert (federation / "server" / "server.pem").read_bytes() != before
    assert FederationDescription.load(federation / "federation.json") == known
    assert renewed.serial_number != x509.load_pem_x509_certificate(before).serial_number
    assert handshake(federation / "server", known.ca, known.host) == "hello"


def test_a_renewal_needs_the_key_of_this_ca(federation: Path, tmp_path: Path):
    before = (federation / "server" / "server.pem").read_bytes()
    create_ca(tmp_path / "other.key", "x")
    (tmp_path / "other.key").replace(federation / "ca.key")
    with pytest.raises(UserError, match="is not the key of this federation's CA"):
        renew(federation)
    (federation / "ca.key").write_bytes(b"junk")
    with pytest.raises(UserError, match="is damaged"):
        renew(federation)
    (federation / "ca.key").unlink()
    with pytest.raises(UserError, match="put it back"):
        renew(federation)
    assert (federation / "server" / "server.pem").read_bytes() == before


def test_layout_and_modes(founded: Path):
    files = {path.relative_to(founded).as_posix() for path in founded.rglob("*") if path.is_file()}
    common = ["federation.json", "identity.key", "node.key", "runtime.secret"]
    clients = [f"kits/client-{i}/{name}" for i in range(3) for name in [*common, "policy.toml"]]
    authority = [f"kits/authority/{name}" for name in [*common, "terms.json"]]
    server = [f"server/{name}" for name in ("server.pem", "server.key", "ca.pem", "runtime.secret")]
    assert files == {"federation.json", "ca.key", *server, *clients, *authority}
    for path in (founded, *founded.rglob("*")):
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == 0o700, path
        elif path.name in SECRETS:
            assert mode == 0o600, path


def test_all_secrets_differ(founded: Path):
    contents = [path.read_bytes() for path in founded.rglob("*") if path.name in SECRETS]
    assert len(contents) == 1 + 2 + 4 * 3 and len(set(contents)) == len(contents)
    assert all(len(data) >= 32 for data in contents)


def test_public_files_hold_no_secret(founded: Path):
    secrets = [path.read_bytes() for path in founded.rglob("*") if path.name in SECRETS]
    for path in founded.rglob("*"):
        if path.is_file() and path.name not in SECRETS:
            data = path.read_bytes()
            assert b"PRIVATE" not in data
            assert not any(secret in data or secret.hex().encode() in data for secret in secrets), path


def test_node_keys_are_as_flower_reads_them(founded: Path):
    for kit in (founded / "kits").iterdir():
        key = serialization.load_ssh_private_key((kit / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1"
        party = load_kit(kit).party
        assert party.party == kit.name and " " not in party.node_key.split(" ", 1)[1]
        assert serialization.load_ssh_public_key(party.node_key.encode()) == key.public_key()


def test_policies_and_terms_are_those_of_a_simulation(founded: Path, tmp_path: Path):
    from mosaic_secure.engine.parties import provision

    config = load_config("digits", {"clients.count": 3})
    simulated = provision(config, tmp_path).home
    for party in config.client_ids:
        made = ClientPolicy.load(founded / "kits" / party / "policy.toml")
        known = FederationDescription.load(founded / "federation.json")
        assert dict(made.roster) == known.pinned and made.authority == known.authority.identity
        other = ClientPolicy.load(simulated / party / "policy.toml")
        own = {"roster", "authority"}
        for field in set(ClientPolicy.__dataclass_fields__) - own:
            assert getattr(made, field) == getattr(other, field), field


def test_keys_are_never_overwritten(tmp_path: Path):
    create_party_keys(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises((PrivacyError, FileExistsError)):
        create_party_keys(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_secrets_that_others_may_read_are_refused(tmp_path: Path):
    identity, node_key = create_party_keys(tmp_path)
    assert read_public_keys(tmp_path) == (identity, node_key)
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(UserError, match="mode 0640"):
        read_public_keys(tmp_path)
    (tmp_path / "node.key").chmod(0o600)
    (tmp_path / "node.key").write_bytes(b"junk")
    with pytest.raises(UserError, match="is damaged") as refused:
        read_public_keys(tmp_path)
    assert "junk" not in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        read_secret(tmp_path / "nowhere")


def test_nothing_half_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mosaic_secure.deployment import founding

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(founding, "write_rules", stop)
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "federation", load_config("digits"), "localhost:8443")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_holds_something(tmp_path: Path):
    config = load_config("digits", {"clients.count": 2})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link", "file/inside"):
        with pytest.raises(UserError, match=r"exists and is not an empty folder|cannot be made"):
            found(tmp_path / name, config, "localhost:8443")
    (tmp_path / "empty").mkdir(mode=0o755)
    found(tmp_path / "empty", config, "localhost:8443")
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full", "link"]


def test_configurations_that_cannot_be_deployed(tmp_path: Path):
    central = load_config("digits", {"method": "central", "clients.count": 1})
    images = {
        "data.path": "/of/nobody",
        "data.class_names": "cat,dog",
        "data.declared_records": 100,
        "data.population": "ward",
    }
    pool = load_config("folder", {**images, "data.clients_from": "partition", "partition.kind": "iid"})
    folders = load_config("folder", {**images, "data.visibility": "public"})
    for config, named in (
        (central, "method = 'central'"),
        (pool, "data.clients_from = 'partition'"),
        (folders, "data.clients_from = 'subfolder'"),
    ):
        with pytest.raises(UserError, match=named):
            found(tmp_path / "federation", config, "localhost:8443")
    assert list(tmp_path.iterdir()) == []
