"""A small federation around one key authority: six clients, identities, and a way to make contributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from privacy.identity import SigningKey
from privacy.secagg.authority import KeyAuthority
from privacy.secagg.contribution import ContributionHeader, Expectation, seal_contribution
from privacy.secagg.packing import encrypt_integers
from privacy.secagg.parameters import CkksParameters
from privacy.secagg.results import PublicKeyInfo

SMALL = CkksParameters(4096, (54, 55), 26)
LENGTH = 100
BOUND = 100_000
ROUNDS = {f"round-{number}": LENGTH for number in range(25)}


@dataclass(frozen=True)
class Federation:
    """Parties of a run that is open at the authority."""

    home: Path
    authority: KeyAuthority
    keys: dict[str, SigningKey]
    roster: dict[str, bytes]
    info: PublicKeyInfo
    terms: dict[str, object]

    def expected(self, round_id: str = "round-0", client: str | None = None) -> Expectation:
        return Expectation(self.info.run_id, round_id, self.info.key_id, SMALL, LENGTH, client)

    def header(self, client: str, round_id: str = "round-0", **other: object) -> ContributionHeader:
        values = {
            "client": client,
            "run_id": self.info.run_id,
            "round_id": round_id,
            "key_id": self.info.key_id,
            "parameters": SMALL.identifier,
            "length": LENGTH,
        }
        return ContributionHeader(**{**values, **other})

    def encrypt(self, values: np.ndarray) -> list[bytes]:
        return encrypt_integers(self.info.public_context, SMALL, values)

    def contribute(self, client: str, values: np.ndarray, round_id: str = "round-0") -> bytes:
        return seal_contribution(self.header(client, round_id), self.encrypt(values), self.keys[client])


def open_federation(home: Path, run_id: str = "run-1", min_contributors: int = 3) -> Federation:
    keys = {f"client-{number}": SigningKey.create(home / f"client-{number}.key") for number in range(6)}
    authority = KeyAuthority(home / "authority", SigningKey.create(home / "authority.key"))
    roster = {client: key.public for client, key in keys.items()}
    terms = {
        "run_id": run_id,
        "params": SMALL,
        "roster": roster,
        "min_contributors": min_contributors,
        "rounds": ROUNDS,
        "agreement": "a0" * 32,
    }
    return Federation(home, authority, keys, roster, authority.open_run(**terms), terms)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return open_federation(tmp_path)


@pytest.fixture
def make_federation(tmp_path: Path) -> Callable[..., Federation]:
    return lambda **options: open_federation(tmp_path, **options)


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    """One vector of integers for each client."""
    rng = np.random.default_rng(7)
    return {f"client-{n}": rng.integers(-10_000, 10_001, LENGTH) for n in range(6)}
