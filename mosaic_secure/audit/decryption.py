"""Attempts to decrypt with what the server holds: the public context, and every contribution as it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.audit.server_view import Check
from privacy.errors import AggregationError
from privacy.secagg.ciphertexts import decrypt_slots, generate_keys, load_context, parse_residues
from privacy.secagg.packing import exact_integers

if TYPE_CHECKING:
    from privacy.secagg.parameters import CkksParameters

__all__ = ["attempt_decryption"]

NAME = "attempts to decrypt (fresh run)"


def attempt_decryption(public_context: bytes, ciphertexts: Sequence[bytes], params: CkksParameters) -> Check:
    """Try what needs no break of the cryptography.

    That the context holds no secret key; that a key of one's own opens nothing; that no ciphertext lies open
    (its second polynomial is zero) or shares its randomness with another one, whose difference then is plain.

    Args:
        public_context: as the server got it. ciphertexts: of several clients, one at least.
    """
    try:
        load_context(public_context, params)
    except AggregationError as error:
        return Check(NAME, False, f"the context that the server was sent is not a public one: {error}")
    _, own_secret = generate_keys(params)
    own = load_context(own_secret, params, secret=True)
    masks = set()
    for ciphertext in ciphertexts:
        mask = parse_residues(params, ciphertext)[1]
        if not mask.any():
            return Check(NAME, False, "a ciphertext lies open: its second polynomial is zero")
        masks.add(np.ascontiguousarray(mask).tobytes())
        try:
            exact_integers(decrypt_slots(own, params, ciphertext), params.max_value)
        except (AggregationError, ValueError, RuntimeError):
            continue
        return Check(NAME, False, "a key of the server's own making opened a contribution")
    if len(masks) < len(ciphertexts):
        return Check(NAME, False, "two ciphertexts share their randomness: their difference lies open")
    return Check(
        NAME,
        True,
        f"the server's context holds no secret key, a key of its own opened none of {len(ciphertexts)} "
        "ciphertexts, and no two share their randomness",
    )
