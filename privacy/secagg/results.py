"""What the key authority signs: the public key of a run, and the decrypted sum of a round."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from privacy.canonical import canonical_json
from privacy.errors import AggregationError
from privacy.identity import verify
from privacy.secagg.parameters import CkksParameters

__all__ = ["DecryptedSum", "PublicKeyInfo", "key_name", "terms_digest", "values_digest"]

KEY_PURPOSE = "mosaic-secure public key 2"
SUM_PURPOSE = "mosaic-secure decrypted sum 1"


def key_name(public_context: bytes) -> str:
    """The id of a public key: the first 32 hex digits of the SHA-256 of its context."""
    return hashlib.sha256(public_context).hexdigest()[:32]


def values_digest(values: np.ndarray) -> str:
    """SHA-256 (hex) of a vector of integers as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i8").tobytes()).hexdigest()


def terms_digest(
    roster: Mapping[str, bytes], min_contributors: int, rounds: Mapping[str, int], agreement: str
) -> str:
    """SHA-256 (hex) of the terms under which a run is open at the authority; see `KeyAuthority.open_run`.

    A client computes it from its own policy and plan. The authority opens a run once, so clients who find
    this digest under its signature know that it decrypts on their terms, and that all who contribute under
    this key have agreed to the same plan.
    """
    terms = {
        "roster": {client: public.hex() for client, public in roster.items()},
        "min_contributors": min_contributors,
        "rounds": dict(rounds),
        "agreement": agreement,
    }
    return hashlib.sha256(canonical_json(terms)).hexdigest()


@dataclass(frozen=True)
class PublicKeyInfo:
    """The public encryption context of one run, signed by the key authority.

    `terms` is the `terms_digest` of the run, `key_id` names the context; `signature` (64 bytes) binds both to
    the run and the parameters.
    """

    run_id: str
    params: CkksParameters
    terms: str
    key_id: str
    public_context: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @staticmethod
    def message(run_id: str, params: CkksParameters, terms: str, key_id: str) -> bytes:
        """The bytes that the authority signs."""
        return canonical_json(
            {
                "purpose": KEY_PURPOSE,
                "run_id": run_id,
                "parameters": params.identifier,
                "terms": terms,
                "key_id": key_id,
            }
        )

    def check(self, authority: bytes) -> None:
        """Raise AggregationError unless the holder of the 32-byte key `authority` published this context on
        these terms.

        Clients call this, with terms of their own reckoning, before they parse or use the context.
        """
        message = self.message(self.run_id, self.params, self.terms, self.key_id)
        if key_name(self.public_context) != self.key_id or not verify(authority, self.signature, message):
            raise AggregationError(
                f"public key of run {self.run_id}: it is not signed by the key authority on these terms "
                "(roster, minimum, rounds, plan)"
            )


@dataclass(frozen=True)
class DecryptedSum:
    """The sum of one round.

    Attributes:
        values: int64 [length], the exact sum of the contributors' integers.
        contributors: their client ids, sorted.
        sum_digest: SHA-256 (hex) of the encrypted sum and of the set of contributions; the server compares it
            with its own.
        rejected: refused contributions, client id (or position in the batch) -> code.
        signature: the authority's (64 bytes), of all of the above.
    """

    run_id: str
    round_id: str
    values: np.ndarray = field(repr=False)
    contributors: tuple[str, ...]
    sum_digest: str
    rejected: Mapping[str, str]
    signature: bytes = field(repr=False)

    @staticmethod
    def message(
        run_id: str,
        round_id: str,
        values: str,
        contributors: tuple[str, ...],
        sum_digest: str,
        rejected: Mapping,
    ) -> bytes:
        """The bytes that the authority signs; `values` is their digest."""
        return canonical_json(
            {
                "purpose": SUM_PURPOSE,
                "run_id": run_id,
                "round_id": round_id,
                "values": values,
                "contributors": list(contributors),
                "sum_digest": sum_digest,
                "rejected": dict(rejected),
            }
        )

    def check(self, authority: bytes) -> None:
        """Raise AggregationError unless the holder of the 32-byte key `authority` signed this sum."""
        message = self.message(
            self.run_id,
            self.round_id,
            values_digest(self.values),
            self.contributors,
            self.sum_digest,
            self.rejected,
        )
        if not verify(authority, self.signature, message):
            raise AggregationError(f"decrypted sum of round {self.round_id}: not signed by the key authority")
