"""Ed25519 identities of the parties: who signed a ledger head, a contribution or a decrypted sum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import PrivacyError
from privacy.storage import read_private, write_durably

KEY_BYTES = 32
SIGNATURE_BYTES = 64

# Keys of small order verify signatures that nobody made. The curve has eight such points; these are their y
# coordinates (RFC 8032, section 5.1), the last two solving d y^4 + 2 y^2 = 1 (double the point, set y to 0).
_PRIME = 2**255 - 19
_ORDER_8 = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})


class SigningKey:
    """A party's secret signing key, kept in a file of mode 0600 that only this party can read.

    `public` is the 32-byte public key that others pin in their rosters.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    @classmethod
    def create(cls, path: str | Path) -> SigningKey:
        """Draw a new key and store it at `path`; raises PrivacyError where a key already exists."""
        key = Ed25519PrivateKey.generate()
        try:
            write_durably(Path(path), _secret_bytes(key), replace=False)
        except FileExistsError as error:
            raise PrivacyError(f"identity key {path}: already exists; load it instead") from error
        return cls(key)

    @classmethod
    def load(cls, path: str | Path) -> SigningKey:
        """Read a stored key; raises PrivacyError when it is missing, damaged or readable by others."""
        file = Path(path)
        try:
            data = read_private(file)
        except PrivacyError as error:
            raise PrivacyError(f"identity key {error}") from error
        if len(data) != KEY_BYTES:
            raise PrivacyError(f"identity key {file}: {len(data)} bytes, not {KEY_BYTES}: it is damaged")
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    @classmethod
    def load_or_create(cls, path: str | Path) -> SigningKey:
        """The stored key, or a new one where there is none yet; two callers at once agree on one key."""
        if not Path(path).exists():
            try:
                return cls.create(path)
            except PrivacyError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
        return cls.load(path)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`; the same message always gives the same signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"

    def __reduce__(self) -> tuple:
        raise TypeError("a signing key is not copied between processes; load it from its file")


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made by the holder of `public` (32 bytes).

    Anything malformed is simply not a valid signature: the answer is False, never an exception.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES or _has_small_order(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes(public)).verify(bytes(signature), bytes(message))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """A short name of a public key for people: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def _has_small_order(public: bytes) -> bool:
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)  # the top bit is the sign of x
    return y % _PRIME in _SMALL_ORDER


def _secret_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
