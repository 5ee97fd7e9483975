"""What everybody knows of a deployed federation: its server and the public keys of its parties."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mosaic_secure.deployment.fields import SCHEMA_VERSION, check_version, exact_fields, load_canonical, wrong
from mosaic_secure.errors import UserError
from privacy.canonical import canonical_json
from privacy.storage import write_durably

__all__ = ["AUTHORITY", "FEDERATION_FILE", "FederationDescription", "Party", "node_key_line", "parse_address"]

FEDERATION_FILE = "federation.json"
AUTHORITY = "authority"
MOST_CLIENTS = 1000
_FINGERPRINT_DIGITS = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CLIENT = re.compile(r"client-(0|[1-9][0-9]{0,2})")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class Party:
    """A party as the others know it.

    Attributes:
        party: "client-0" and on, or "authority". role: "client" or "authority".
        identity: Ed25519 public key, 64 hex digits in small letters; signs contributions, sums and ledgers.
        node_key: public key of the party's SuperNode on SECP384R1, one OpenSSH line without comment.

    Raises:
        UserError: a field is not that.
    """

    party: str
    role: Literal["client", "authority"]
    identity: str
    node_key: str

    def __post_init__(self) -> None:
        check_party(self.party)
        role = AUTHORITY if self.party == AUTHORITY else "client"
        if self.role != role:
            raise wrong(f"parties.{self.party}.role", self.role, f"must be {role!r}")
        if not isinstance(self.identity, str) or not re.fullmatch("[0-9a-f]{64}", self.identity):
            right = "must be an Ed25519 public key, 64 hex digits in small letters"
            raise wrong(f"parties.{self.party}.identity", self.identity, right)
        if (
            not isinstance(self.node_key, str)
            or _node_key(self.node_key.encode("ascii", "replace")) != self.node_key
        ):
            right = "must be one OpenSSH line 'ecdsa-sha2-nistp384 ...' without comment"
            raise wrong(f"parties.{self.party}.node_key", self.node_key, right)

    @property
    def index(self) -> int:
        """Position among the clients, from 0; -1 for the authority."""
        return -1 if self.role == AUTHORITY else int(self.party.removeprefix("client-"))

    def to_dict(self) -> dict[str, str]:
        """As JSON values; `from_dict` is the inverse."""
        return {
            "party": self.party,
            "role": self.role,
            "identity": self.identity,
            "node_key": self.node_key,
        }

    @classmethod
    def from_dict(cls, data: object) -> Party:
        """From JSON values; raises UserError for a missing, unknown or wrong field."""
        return cls(**exact_fields(data, ("party", "role", "identity", "node_key"), "parties"))


@dataclass(frozen=True)
class FederationDescription:
    """A deployed federation. Nothing in it is secret, and whoever takes part holds a copy.

    Attributes:
        name: for people. server: "host:port" of the SuperLink, as parties reach it.
        ca: PEM of the certificate that signs the server's, and the only one that parties trust.
        parties: client-0 and on, then the key authority; given in any order.
        population: whose ledgers pay; what every client's policy names.
        revoked: clients that the server no longer lets in.

    Raises:
        UserError: a field is wrong, ids have gaps, or two parties share a key.
    """

    name: str
    server: str
    ca: str
    parties: tuple[Party, ...]
    population: str
    revoked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("name", "population"):
            check_plain_name(field, getattr(self, field))
        parse_address(self.server)
        _check_ca(self.ca)
        ordered = sorted(self.parties, key=lambda party: (party.role == AUTHORITY, party.index))
        object.__setattr__(self, "parties", tuple(ordered))
        self._check_parties()
        known = [party.party for party in self.clients]
        for party in self.revoked:
            if party not in known:
                raise wrong("revoked", party, f"must be one of {known[0]} to {known[-1]}")
        object.__setattr__(self, "revoked", tuple(name for name in known if name in set(self.revoked)))

    def _check_parties(self) -> None:
        ids = [party.party for party in self.parties]
        clients = len(ids) - ids.count(AUTHORITY)
        if ids.count(AUTHORITY) != 1:
            raise wrong("parties", ", ".join(ids), "must have exactly one 'authority'")
        if clients < 2 or ids[:-1] != [f"client-{index}" for index in range(clients)]:
            raise wrong("parties", ", ".join(ids), "clients must be client-0, client-1 and on, at least two")
        for field in ("identity", "node_key"):
            owners: dict[str, str] = {}
            for party in self.parties:
                other = owners.setdefault(getattr(party, field), party.party)
                if other != party.party:
                    raise UserError(f"parties.{party.party}.{field}: is that of {other}; each needs its own")

    @property
    def clients(self) -> tuple[Party, ...]:
        """client-0 to client-(n-1), in this order."""
        return self.parties[:-1]

    @property
    def authority(self) -> Party:
        """The key authority."""
        return self.parties[-1]

    @property
    def roster(self) -> dict[str, str]:
        """Party id -> Ed25519 public key (hex), the key authority's under "authority"."""
        return {party.party: party.identity for party in self.parties}

    @property
    def pinned(self) -> dict[str, str]:
        """Client id -> Ed25519 public key (hex): as clients' policies and the authority's terms pin it."""
        return {party.party: party.identity for party in self.clients}

    @property
    def host(self) -> str:
        """The server's DNS name or address, an IPv6 address without brackets."""
        return parse_address(self.server)[0]

    @property
    def port(self) -> int:
        """The server's port."""
        return parse_address(self.server)[1]

    @property
    def fingerprint(self) -> str:
        """What people compare by voice: 128 bits of SHA-256 as eight groups of four hex digits.

        It covers all but `revoked`. 64 bits would not do: whoever writes the description could look for two
        with one fingerprint, and show different rosters to different parties.
        """
        body = self.to_dict()
        del body["revoked"]
        digest = hashlib.sha256(canonical_json(body)).hexdigest()[:_FINGERPRINT_DIGITS]
        return "-".join(digest[at : at + 4] for at in range(0, len(digest), 4))

    def matches(self, told: str) -> bool:
        """Whether `told` is the fingerprint, however its digits are grouped."""
        return re.sub(r"[\s:-]", "", told).lower() == self.fingerprint.replace("-", "")

    def find(self, party: str) -> Party | None:
        """The party of that id, or None."""
        return next((known for known in self.parties if known.party == party), None)

    def party_of_node_key(self, key: bytes) -> Party | None:
        """Whose SuperNode has this public key (PEM as Flower keeps it, or an OpenSSH line), or None."""
        line = _node_key(key)
        return next((party for party in self.parties if party.node_key == line), None)

    def revoke(self, party: str) -> FederationDescription:
        """The same without that client; raises UserError where there is no such client."""
        return replace(self, revoked=(*self.revoked, party))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "server": self.server,
            "ca": self.ca,
            "parties": [party.to_dict() for party in self.parties],
            "population": self.population,
            "revoked": list(self.revoked),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FederationDescription:
        """From JSON values; raises UserError naming the field, its value, and what would be right."""
        fields = ("schema_version", "name", "server", "ca", "parties", "population", "revoked")
        values = exact_fields(data, fields)
        check_version(values.pop("schema_version"))
        for field in ("parties", "revoked"):
            if not isinstance(values[field], list):
                raise wrong(field, values[field], "must be a list")
        values["parties"] = tuple(Party.from_dict(party) for party in values["parties"])
        values["revoked"] = tuple(values["revoked"])
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write the description as canonical JSON (atomic)."""
        write_durably(Path(path), canonical_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> FederationDescription:
        """Read a description; raises UserError naming the file and what is wrong in it."""
        return load_canonical(Path(path), cls.from_dict)


def check_party(party: object) -> str:
    """A party's id; raises UserError otherwise."""
    if not isinstance(party, str) or (party != AUTHORITY and not _CLIENT.fullmatch(party)):
        right = f"must be client-0 to client-{MOST_CLIENTS - 1}, or {AUTHORITY}"
        raise wrong("party", party, right)
    return party


def check_plain_name(field: str, value: object) -> str:
    """A name of a federation or of a population; raises UserError for anything else."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong(field, value, "must be 1 to 100 of letters, digits, '.', '_', '-', no mark first")
    return value


def parse_address(server: object) -> tuple[str, int]:
    """Host and port of "host:port" or "[IPv6]:port"; raises UserError for anything else."""
    right = "must be HOST:PORT with a DNS name or address that the parties reach, such as fl.example.org:8443"
    host, colon, port = server.rpartition(":") if isinstance(server, str) else ("", "", "")
    if not colon or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise wrong("server", server, right)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        labels = host.split(".")
        named = len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
        if not named or labels[-1].isdigit():
            raise wrong("server", server, right) from None
        return host, int(port)
    if address.is_unspecified or (address.version == 6) != bracketed or "%" in host:
        raise wrong("server", server, right)
    return str(address), int(port)


def node_key_line(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as its one OpenSSH line, without comment."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form).decode("ascii")


def _node_key(key: bytes) -> str | None:
    """The OpenSSH line of a SECP384R1 public key in PEM or OpenSSH format; None for anything else."""
    try:
        pem = key.startswith(b"-----BEGIN")
        public = serialization.load_pem_public_key(key) if pem else serialization.load_ssh_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP384R1):
        return None
    return node_key_line(public)


def _check_ca(text: object) -> None:
    right = "must be the PEM text of one certificate that may sign others"
    try:
        certificate = x509.load_pem_x509_certificate(text.encode("ascii") if isinstance(text, str) else b"")
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        plain = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion):
        raise wrong("ca", text, right) from None
    if plain != text or not constraints.ca:
        raise wrong("ca", text, right)
