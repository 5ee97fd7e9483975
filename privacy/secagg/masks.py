"""Masks that cancel in the sum of all who agreed on them (Bonawitz et al., Practical Secure Aggregation, CCS
2017).

A masked contribution is its integers, plus a mask of the client's own, plus one with each other client of the
view, which the other subtracts; modulo M, so that it is uniform to whoever lacks any one of the masks. The
sum of some contributors is unmasked with their own masks, and with the mask keys of those who agreed on masks
and then contributed nothing. Both come back from shares (`privacy.secagg.shamir`), and for no client both do.

Every mask is a ChaCha20 key stream under a key of HKDF-SHA256, which binds it to run, round and clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import AggregationError
from privacy.secagg.decoding import decode, off
from privacy.secagg.mask_terms import Bundle, MaskTerms, seed_commitment
from privacy.secagg.shamir import PRIME, SHARE_BYTES, combine

__all__ = ["add_masks", "agree", "centred", "derived_key", "remove_masks", "unmask"]

SELF_PURPOSE = "mosaic-secure self mask 1"
PAIR_PURPOSE = "mosaic-secure pair mask 1"
KEY_BYTES = 32
MOST_TRIED = 1000  # choices among shares, where more of them are wrong than can be decoded


def derived_key(secret: bytes, context: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 for one purpose, of a uniform seed or an X25519 secret."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=context).derive(secret)


def agree(private: bytes, public: bytes) -> bytes:
    """The X25519 secret of two keys; raises AggregationError where `public` is of small order."""
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise AggregationError("mask keys: a key is no public key") from None


def add_masks(
    terms: MaskTerms,
    round_id: str,
    values: np.ndarray,
    client: str,
    seed: bytes,
    private: bytes,
    members: Mapping[str, Bundle],
) -> np.ndarray:
    """A client's integers under its masks.

    Args:
        values: int64 [length of the round].
        seed, private: its 32-byte seed and X25519 key of this round.
        members: all who agreed on masks, itself among them.

    Returns:
        int64 [length], in [-M/2, M/2).
    """
    if np.shape(values) != (terms.length(round_id),):
        raise AggregationError(f"round {round_id}: values of shape {np.shape(values)} cannot be masked")
    total = values + _own_mask(terms, round_id, client, seed)
    for other, bundle in members.items():
        if other != client:
            secret = agree(private, bundle.round_keys[round_id])
            total = total + _pair_mask(terms, round_id, client, other, secret)
    return centred(total, terms.modulus)


def remove_masks(
    terms: MaskTerms,
    round_id: str,
    total: np.ndarray,
    contributors: Sequence[str],
    seeds: Mapping[str, bytes],
    privates: Mapping[str, bytes],
    members: Mapping[str, Bundle],
) -> np.ndarray:
    """The sum of the contributors' integers, where it lies in [-M/2, M/2).

    Args:
        total: int64 [length], sum of their masked integers.
        seeds: of each contributor. privates: X25519 keys of all other members.
    """
    for client in contributors:
        total = total - _own_mask(terms, round_id, client, seeds[client])
    for lost, private in privates.items():
        for client in contributors:
            secret = agree(private, members[client].round_keys[round_id])
            total = total - _pair_mask(terms, round_id, client, lost, secret)
    return centred(total, terms.modulus)


def unmask(
    terms: MaskTerms,
    round_id: str,
    total: np.ndarray,
    contributors: Sequence[str],
    members: Mapping[str, Bundle],
    answers: Mapping[str, Sequence[bytes]],
) -> np.ndarray:
    """The sum of a round from its masked sum and the shares that clients gave for it.

    Args:
        total: int64 [length]. contributors: clients in it.
        members: all who agreed on masks.
        answers: client -> its shares, one for each member in sorted order (`MaskBook.reveal`); an empty one
            where it holds none.

    A wrong share is noticed, and done without where there are enough others: always where at most half of
    the shares beyond the threshold are wrong, else where one of `MOST_TRIED` choices has none of them.

    Raises:
        AggregationError: too few right shares of a secret; the line names whose.
    """
    ordered = sorted(members)
    seeds, privates = {}, {}
    suspects: set[int] = set()
    for position, member in enumerate(ordered):
        bundle, contributed = members[member], member in contributors
        shares = {
            terms.point(client): given[position]
            for client, given in sorted(answers.items())
            if len(given) == len(ordered) and given[position]
        }
        if len(shares) < terms.threshold:
            raise AggregationError(
                f"round {round_id}: {len(shares)} clients gave a share of a mask of {member}, must be at "
                f"least {terms.threshold}"
            )
        is_right = _is_seed_of(bundle, round_id) if contributed else _is_key_of(bundle, round_id)
        found = _recovered(shares, terms.threshold, is_right, suspects)
        if found is None:
            raise AggregationError(f"round {round_id}: too many wrong shares of a mask of {member}")
        (seeds if contributed else privates)[member] = found
    return remove_masks(terms, round_id, total, contributors, seeds, privates, members)


def _recovered(
    shares: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool], suspects: set[int]
) -> bytes | None:
    """The secret that is right, of as many of the shares as that takes; None if it is not found.

    `suspects`: points that gave a wrong share of something, asked last; those that are found here are added.
    """
    values = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    values = {p: v for p, v in values.items() if len(shares[p]) == SHARE_BYTES and v < PRIME}
    points = sorted(values, key=lambda point: (point in suspects, point))

    def attempt(chosen: Sequence[int]) -> bytes | None:
        try:
            secret = combine({point: shares[point] for point in chosen})
        except AggregationError:
            return None
        return secret if is_right(secret) else None

    if len(points) < threshold:
        return None
    if (secret := attempt(points[:threshold])) is not None:
        return secret
    decoded = decode(values, threshold)
    if decoded is not None and is_right(decoded[0]):
        suspects |= decoded[1]
        return decoded[0]
    for chosen in islice(combinations(points, threshold), MOST_TRIED):
        if (secret := attempt(chosen)) is not None:
            suspects |= off(values, chosen)
            return secret
    return None


def _is_seed_of(bundle: Bundle, round_id: str) -> Callable[[bytes], bool]:
    return lambda seed: seed_commitment(seed) == bundle.seeds[round_id]


def _is_key_of(bundle: Bundle, round_id: str) -> Callable[[bytes], bool]:
    def is_right(private: bytes) -> bool:
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return public == bundle.round_keys[round_id]

    return is_right


def centred(values: np.ndarray, modulus: int) -> np.ndarray:
    """Representatives modulo M in [-M/2, M/2), int64."""
    half = modulus // 2
    return (np.asarray(values, dtype=np.int64) + half) % modulus - half


def _own_mask(terms: MaskTerms, round_id: str, client: str, seed: bytes) -> np.ndarray:
    context = terms.context(SELF_PURPOSE, round_id=round_id, client=client)
    return _stream(derived_key(seed, context), terms, round_id)


def _pair_mask(terms: MaskTerms, round_id: str, client: str, other: str, secret: bytes) -> np.ndarray:
    """What `client` adds for `other`: the first of both in order adds the mask, the second subtracts it."""
    pair = sorted((client, other))
    mask = _stream(
        derived_key(secret, terms.context(PAIR_PURPOSE, round_id=round_id, pair=pair)), terms, round_id
    )
    return mask if client == pair[0] else -mask


def _stream(key: bytes, terms: MaskTerms, round_id: str) -> np.ndarray:
    """Uniform int64 [length] in [0, M), M a power of two."""
    length = terms.length(round_id)
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(cipher.update(bytes(8 * length)), dtype="<u8")
    return (words & np.uint64(terms.modulus - 1)).astype(np.int64)
