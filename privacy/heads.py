"""Heads of ledgers, and the counter-signatures that make an old copy of a ledger recognisable.

A head names the newest entry of a ledger. A key authority that counter-signs heads, and never an older one
than before, turns them into anchors: a ledger that does not contain the anchored entry was rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privacy import identity
from privacy.canonical import canonical_json
from privacy.errors import LedgerError

_HEAD_PURPOSE = "mosaic-secure ledger head 1"
_ANCHOR_PURPOSE = "mosaic-secure ledger anchor 1"


@dataclass(frozen=True)
class Head:
    """The newest entry of a ledger: its number (from 0), the SHA-256 of its content (hex), and the client's
    signature (64 bytes) of the two. As every entry contains the hash of the one before, a head stands for the
    whole ledger up to it."""

    sequence: int
    digest: str
    signature: bytes

    @staticmethod
    def message(sequence: int, digest: str) -> bytes:
        """The bytes that the owner of the ledger signs for its entry `sequence`."""
        return canonical_json({"digest": digest, "purpose": _HEAD_PURPOSE, "sequence": sequence})

    def is_signed_by(self, public: bytes) -> bool:
        """Whether the holder of the 32-byte key `public` signed this head."""
        return identity.verify(public, self.signature, self.message(self.sequence, self.digest))

    def to_dict(self) -> dict[str, object]:
        """As JSON values; `from_dict` is the inverse."""
        return {"sequence": self.sequence, "digest": self.digest, "signature": self.signature.hex()}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Head:
        """From JSON values; raises LedgerError for a missing or ill-typed field."""
        return cls(_count(data, "sequence"), _hex(data, "digest", 32), _bytes(data, "signature", 64))


@dataclass(frozen=True)
class Anchor:
    """A head that an authority has counter-signed: whose ledger (client id and 32-byte public key), the
    head's `sequence` and `digest`, the authority's public key and its signature of all these."""

    client: str
    public: bytes
    sequence: int
    digest: str
    authority: bytes
    signature: bytes

    @classmethod
    def create(cls, key: identity.SigningKey, client: str, public: bytes, head: Head) -> Anchor:
        """Counter-sign `head` with the authority's key; raises LedgerError if `public` did not sign it.

        Refusing a head that is older than the last one counter-signed is left to the caller, who knows it.
        """
        if not head.is_signed_by(public):
            raise LedgerError(f"ledger head of {client}: its signature is not of the key in the roster")
        message = cls.message(client, public, head.sequence, head.digest)
        return cls(client, public, head.sequence, head.digest, key.public, key.sign(message))

    @staticmethod
    def message(client: str, public: bytes, sequence: int, digest: str) -> bytes:
        """The bytes that the authority signs."""
        return canonical_json(
            {
                "client": client,
                "digest": digest,
                "public": public.hex(),
                "purpose": _ANCHOR_PURPOSE,
                "sequence": sequence,
            }
        )

    @property
    def is_authentic(self) -> bool:
        """Whether the authority named in the anchor made it (not whether that authority is the right one)."""
        message = self.message(self.client, self.public, self.sequence, self.digest)
        return identity.verify(self.authority, self.signature, message)

    def to_dict(self) -> dict[str, object]:
        """As JSON values; `from_dict` is the inverse."""
        return {
            "client": self.client,
            "public": self.public.hex(),
            "sequence": self.sequence,
            "digest": self.digest,
            "authority": self.authority.hex(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Anchor:
        """From JSON values; raises LedgerError for a missing or ill-typed field."""
        client = data.get("client")
        if not isinstance(client, str):
            raise LedgerError("anchor field client: must be a text")
        return cls(
            client,
            _bytes(data, "public", 32),
            _count(data, "sequence"),
            _hex(data, "digest", 32),
            _bytes(data, "authority", 32),
            _bytes(data, "signature", 64),
        )


def _count(data: Mapping[str, object], field: str) -> int:
    value = data.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise LedgerError(f"field {field}: must be a whole number from 0, not {value!r}")
    return value


def _bytes(data: Mapping[str, object], field: str, length: int) -> bytes:
    value = data.get(field)
    try:
        decoded = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        decoded = b""
    if len(decoded) != length:
        raise LedgerError(f"field {field}: must be {length} bytes in hexadecimal")
    return decoded


def _hex(data: Mapping[str, object], field: str, length: int) -> str:
    return _bytes(data, field, length).hex()
