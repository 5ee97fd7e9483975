"""Cards: what a party that draws its own keys tells whoever founds the federation, signed by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.deployment.description import AUTHORITY, Party, check_party
from mosaic_secure.deployment.fields import SCHEMA_VERSION, check_version, exact_fields, load_canonical, wrong
from mosaic_secure.deployment.folders import new_folder
from mosaic_secure.deployment.material import IDENTITY, create_party_keys
from mosaic_secure.errors import UserError
from privacy import identity
from privacy.canonical import canonical_json
from privacy.storage import write_durably

__all__ = ["CARD", "Card", "make_card"]

CARD = "card.json"
_PURPOSE = "mosaic-secure party card 1"


@dataclass(frozen=True)
class Card:
    """The public keys of one party.

    Attributes:
        party: id, role and public keys. signature: 64 bytes, by the party's identity over all else.

    Raises:
        UserError: the signature is not of that identity.
    """

    party: Party
    signature: bytes

    def __post_init__(self) -> None:
        public = bytes.fromhex(self.party.identity)
        if not identity.verify(public, self.signature, self._message(self.party)):
            raise UserError("signature: is not of the card's own identity; ask the party for its card again")

    @classmethod
    def sign(cls, party: Party, key: identity.SigningKey) -> Card:
        """The card of a party, by its own key."""
        return cls(party, key.sign(cls._message(party)))

    @staticmethod
    def _message(party: Party) -> bytes:
        body = party.to_dict() | {"schema_version": SCHEMA_VERSION, "purpose": _PURPOSE}
        return canonical_json(body)

    @property
    def fingerprint(self) -> str:
        """A short name of the identity, to compare by voice with the person who sent the card."""
        return identity.fingerprint(bytes.fromhex(self.party.identity))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        signed = {"schema_version": SCHEMA_VERSION, "purpose": _PURPOSE, "signature": self.signature.hex()}
        return signed | self.party.to_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Card:
        """From JSON values; raises UserError for a field that is off or a signature that does not hold."""
        own = ("party", "role", "identity", "node_key")
        values = exact_fields(data, ("schema_version", "purpose", *own, "signature"))
        check_version(values["schema_version"])
        if values["purpose"] != _PURPOSE:
            raise wrong("purpose", values["purpose"], f"must be {_PURPOSE!r}")
        text = values["signature"]
        try:
            signature = bytes.fromhex(text) if isinstance(text, str) else b""
        except ValueError:
            signature = b""
        if len(signature) != identity.SIGNATURE_BYTES or signature.hex() != text:
            raise wrong("signature", text, "must be 128 hex digits in small letters")
        return cls(Party.from_dict({name: values[name] for name in own}), signature)

    def save(self, path: str | Path) -> None:
        """Write the card as canonical JSON."""
        write_durably(Path(path), canonical_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Card:
        """Read and check a card; raises UserError naming the file and what is wrong in it."""
        return load_canonical(Path(path), cls.from_dict)


def make_card(kit: Path, party: str) -> Card:
    """Draw the keys of a party on its own machine, under `kit`, and write its card beside them.

    Raises:
        UserError: no such party, or `kit` holds something already: keys are never overwritten.
    """
    role = AUTHORITY if check_party(party) == AUTHORITY else "client"
    with new_folder(kit) as folder:
        public, node_key = create_party_keys(folder)
        card = Card.sign(Party(party, role, public, node_key), identity.SigningKey.load(folder / IDENTITY))
        card.save(folder / CARD)
    return card
