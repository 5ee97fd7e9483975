"""What all who mask a run have agreed on, and the signed statements in which they say so.

A *bundle* is a client's public keys of one run: one X25519 key for each round, from which it agrees on masks
with each other client, and one under which shares are sealed to it. A *view* is the list of clients that
agree on masks with each other, by the digests of their bundles. Each client signs one view of a run; with the
signatures of `threshold` clients under it there is no other that anybody accepts (`privacy.secagg.quorum`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import AggregationError
from privacy.identity import KEY_BYTES, SigningKey, verify
from privacy.secagg.parameters import CkksParameters
from privacy.secagg.shamir import SHARE_BYTES

__all__ = ["Bundle", "MaskTerms", "check_certificate", "largest_modulus", "open_bundle", "view_message"]

BUNDLE_PURPOSE = "mosaic-secure mask keys 1"
SEED_PURPOSE = b"mosaic-secure mask seed 1\x00"
VIEW_PURPOSE = "mosaic-secure mask view 1"
NONCE_BYTES, TAG_BYTES = 12, 16
_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def largest_modulus(params: CkksParameters, clients: int) -> int:
    """The largest power of two M such that contributions of all clients, each in [-M/2, M/2), add up exactly.

    A power of two, so that words of a key stream are uniform modulo M without a rejected one.
    """
    half = min(params.max_value, params.max_sum // clients)
    return 2 ** half.bit_length()


@dataclass(frozen=True)
class MaskTerms:
    """The terms of the masks of one run.

    Attributes:
        run_id, agreement: of the run; `agreement` is the hash of its plan.
        roster: client id -> 32-byte identity key, of all clients of the run.
        rounds: round id -> integers in the vector.
        threshold: shares that give back a secret; also the fewest contributors that a client helps to unmask.
        modulus: M; masked integers are uniform in [-M/2, M/2).
    """

    run_id: str
    agreement: str
    roster: Mapping[str, bytes]
    rounds: Mapping[str, int]
    threshold: int
    modulus: int

    def point(self, client: str) -> int:
        """Where secrets are evaluated for a client, from 1."""
        return sorted(self.roster).index(client) + 1

    @property
    def box_bytes(self) -> int:
        """Size of what one client seals to another: a nonce, two shares for each round, a tag."""
        return NONCE_BYTES + 2 * SHARE_BYTES * len(self.rounds) + TAG_BYTES

    def length(self, round_id: str) -> int:
        """Integers in the vector of a round; raises AggregationError for one that is not in the run."""
        if round_id not in self.rounds:
            raise AggregationError(f"round {round_id}: is not among the rounds of run {self.run_id}")
        return self.rounds[round_id]

    def context(self, purpose: str, **parts: object) -> bytes:
        """Canonical bytes that bind a key or a signature to this run and one purpose."""
        return canonical_json({"purpose": purpose, "run_id": self.run_id, **parts})


@dataclass(frozen=True)
class Bundle:
    """A client's public X25519 keys (32 bytes each), as it signed them: `text` is what was signed.

    `seeds` has a commitment to its seed of each round (`seed_commitment`), so that a wrong share is noticed.
    """

    client: str
    share_key: bytes
    round_keys: Mapping[str, bytes]
    seeds: Mapping[str, str]
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what was signed."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()


def seed_commitment(seed: bytes) -> str:
    """SHA-256 (hex) that binds a client to a seed of 256 random bits without telling it."""
    return hashlib.sha256(SEED_PURPOSE + seed).hexdigest()


def bundle_text(
    terms: MaskTerms,
    client: str,
    share_key: bytes,
    round_keys: Mapping[str, bytes],
    seeds: Mapping[str, str],
) -> str:
    """What a client signs of its public keys."""
    return terms.context(
        BUNDLE_PURPOSE,
        agreement=terms.agreement,
        client=client,
        share_key=share_key.hex(),
        rounds={round_id: key.hex() for round_id, key in round_keys.items()},
        seeds=dict(seeds),
    ).decode("ascii")


def parse_bundle(text: str) -> Bundle:
    """The keys in a bundle, of which nothing is checked but its form; raises ValueError."""
    values: Any = parse_canonical(text.encode("ascii"))
    try:
        keys = {str(name): bytes.fromhex(key) for name, key in values["rounds"].items()}
        seeds = {str(name): str(digest) for name, digest in values["seeds"].items()}
        return Bundle(str(values["client"]), bytes.fromhex(values["share_key"]), keys, seeds, text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no bundle of keys") from error


def open_bundle(text: str, signature: bytes, terms: MaskTerms) -> Bundle:
    """The keys in a bundle, checked against the roster and the terms.

    Raises:
        AggregationError: it is not signed by a client of the roster, is of another run or plan, or a key of
            it would agree on the same secret with everybody.
    """
    try:
        bundle = parse_bundle(text)
    except ValueError:
        raise AggregationError("mask keys: a bundle is not of this format") from None
    client, keys = bundle.client, bundle.round_keys
    if client not in terms.roster or not verify(terms.roster[client], signature, text.encode("ascii")):
        raise AggregationError("mask keys: a bundle is not signed by a client of the pinned roster")
    said = bundle_text(terms, client, bundle.share_key, keys, bundle.seeds)
    if text != said or not set(keys) == set(bundle.seeds) == set(terms.rounds):
        raise AggregationError(f"mask keys of {client}: are of another run or plan")
    for key in (bundle.share_key, *keys.values()):
        if len(key) != KEY_BYTES:
            raise AggregationError(f"mask keys of {client}: a key has not {KEY_BYTES} bytes")
        try:
            _PROBE.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:  # of small order: the secret is zero, whoever agrees on it
            raise AggregationError(f"mask keys of {client}: a key is no public key") from None
    return bundle


def open_bundles(texts: Sequence[str], signatures: Sequence[bytes], terms: MaskTerms) -> dict[str, Bundle]:
    """Bundles by client, sorted; raises AggregationError for one that is wrong, or two of one client."""
    if len(texts) != len(signatures):
        raise AggregationError(f"mask keys: {len(texts)} bundles with {len(signatures)} signatures")
    opened = [open_bundle(text, signature, terms) for text, signature in zip(texts, signatures, strict=True)]
    found = {bundle.client: bundle for bundle in sorted(opened, key=lambda bundle: bundle.client)}
    if len(found) != len(opened):
        raise AggregationError("mask keys: two bundles are of one client")
    return found


def view_message(terms: MaskTerms, members: Mapping[str, Bundle]) -> bytes:
    """What a client signs of the view that it takes part in."""
    digests = {client: bundle.digest for client, bundle in members.items()}
    return terms.context(VIEW_PURPOSE, agreement=terms.agreement, members=digests)


def sign_view(terms: MaskTerms, members: Mapping[str, Bundle], key: SigningKey) -> bytes:
    """A client's signature of its view."""
    return key.sign(view_message(terms, members))


def check_certificate(
    terms: MaskTerms, members: Mapping[str, Bundle], signers: Sequence[str], signatures: Sequence[bytes]
) -> None:
    """Raise AggregationError unless `threshold` clients of a view have signed it."""
    message = view_message(terms, members)
    valid = {
        signer
        for signer, signature in zip(signers, signatures, strict=False)
        if signer in members and verify(terms.roster[signer], signature, message)
    }
    if len(valid) < terms.threshold:
        raise AggregationError(
            f"masks of run {terms.run_id}: {len(valid)} clients have signed who takes part, must be at least "
            f"{terms.threshold}"
        )
