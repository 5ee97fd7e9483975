"""Clients that agree on pairwise masks, each with a home of its own, and an honest server between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from privacy.identity import SigningKey
from privacy.secagg.mask_book import MaskBook
from privacy.secagg.mask_terms import Bundle, MaskTerms, open_bundle
from privacy.secagg.masks import unmask

ROUNDS = {"centre-0": 7, "moments-0": 5, "gradient-0": 3}
MODULUS = 2**20


@dataclass
class MaskParties:
    """`count` clients of one run; `threshold` of them are needed for everything."""

    home: Path
    count: int
    threshold: int
    modulus: int = MODULUS
    keys: dict[str, SigningKey] = field(init=False)
    terms: MaskTerms = field(init=False)
    members: list[str] = field(default_factory=list, init=False)
    signatures: dict[str, bytes] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names = [f"client-{number}" for number in range(self.count)]
        self.keys = {name: SigningKey.load_or_create(self.home / name / "identity.key") for name in names}
        roster = {name: key.public for name, key in self.keys.items()}
        self.terms = MaskTerms("run-1", "a0" * 32, roster, ROUNDS, self.threshold, self.modulus)

    def book(self, client: str) -> MaskBook:
        """Read anew from the disk each time, as after a restart."""
        return MaskBook(self.home / client, client, self.keys[client], self.terms)

    def bundles(self, clients: Sequence[str] | None = None) -> tuple[list[str], list[bytes]]:
        """What clients offer: their keys and the signatures."""
        offered = [self.book(client).bundle() for client in clients or self.keys]
        return [text for text, _ in offered], [signature for _, signature in offered]

    def opened(self) -> dict[str, Bundle]:
        """Bundles of those who take part in the masks, by client."""
        texts, signatures = self.bundles(self.members)
        return {
            member: open_bundle(text, signature, self.terms)
            for member, text, signature in zip(self.members, texts, signatures, strict=True)
        }

    def agree(
        self,
        offering: Sequence[str] | None = None,
        dealing: Sequence[str] | None = None,
        signing: Sequence[str] | None = None,
    ) -> None:
        """The three steps, each by those that are still there."""
        offering = list(offering or self.keys)
        bundles = self.bundles(offering)
        self.members = sorted(dealing or offering)
        dealt = {client: dict(zip(*self.book(client).deal(*bundles), strict=True)) for client in self.members}
        for client in signing or self.members:
            boxes = [dealt[sender][client] for sender in self.members]
            self.signatures[client] = self.book(client).join(self.members, boxes)

    def contribute(self, client: str, round_id: str, values: np.ndarray) -> np.ndarray:
        """A masked contribution, by a client that was shown who has signed the view."""
        book = self.book(client)
        book.check_certificate(*self.certificate)
        book.check_open(round_id, contributed=False)
        return book.mask(round_id, values)

    @property
    def certificate(self) -> tuple[list[str], list[bytes]]:
        return list(self.signatures), list(self.signatures.values())

    def unmask(
        self, round_id: str, total: np.ndarray, contributors: Sequence[str], helping: Sequence[str]
    ) -> np.ndarray:
        """The sum, with shares of those that help."""
        answers = {
            client: self.book(client).reveal(round_id, contributors, client in contributors)
            for client in helping
        }
        return unmask(self.terms, round_id, total, contributors, self.opened(), answers)
