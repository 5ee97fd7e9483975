"""Vectors of integers <-> ciphertexts packed full, and several ciphertexts in one body of bytes.

A vector of n integers fills ceil(n / slots) ciphertexts; the slots left over in the last one hold zeros, and
are checked to sum to zero.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from privacy.errors import AggregationError
from privacy.secagg.ciphertexts import decrypt_slots, encrypt_slots, load_context, parse_residues
from privacy.secagg.parameters import CkksParameters

__all__ = [
    "ImplausibleSum",
    "decrypt_integers",
    "encrypt_integers",
    "frame_ciphertexts",
    "exact_integers",
    "unframe_ciphertexts",
]

COUNT = struct.Struct("<I")
# A decoded slot further than this from a whole number is no sum of integers. The error of a true sum is under
# 2^-10; of arbitrary residues one slot in 32 passes, a ciphertext of thousands of slots never.
INTEGER_TOLERANCE = 2.0**-6


class ImplausibleSum(AggregationError):
    """A well-formed ciphertext holds no sum that honest contributors can reach."""


def encrypt_integers(public_context: bytes, params: CkksParameters, values: np.ndarray) -> list[bytes]:
    """Encrypt a vector of integers under a public context whose signature the caller has verified.

    Args:
        public_context: what the key authority published for this run.
        params: the agreed parameters.
        values: int64 [n], n >= 1, |value| <= params.max_value; bound times contributors must fit, see
            `CkksParameters.check_capacity`.

    Returns:
        ceil(n / slots) ciphertexts of `params.ciphertext_bytes` bytes.

    Raises:
        AggregationError: if values are no such vector, or the context does not fit.
    """
    values = np.asarray(values)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind != "i":
        raise AggregationError(
            f"values: {values.dtype} of shape {values.shape}; must be a vector of at least one signed integer"
        )
    if values.min() < -params.max_value or values.max() > params.max_value:
        raise AggregationError(
            f"values: must lie within +-{params.max_value} to be encrypted; clamp them to the bound"
        )
    context = load_context(public_context, params)
    floats = values.astype(np.float64)
    return [
        encrypt_slots(context, params, floats[start : start + params.slots].tolist())
        for start in range(0, len(floats), params.slots)
    ]


def decrypt_integers(
    secret_context: bytes,
    params: CkksParameters,
    ciphertexts: Sequence[bytes],
    length: int,
    magnitude_bound: int,
) -> np.ndarray:
    """Decrypt a sum of integers: int64 [length], used slots only, rounded to whole numbers.

    Raises:
        AggregationError: if any slot is not a whole number within +-magnitude_bound, a slot beyond `length`
            is not zero, or the ciphertexts are not ceil(length / slots) well-formed ones. Nothing of the
            content is told.
    """
    if length < 1 or len(ciphertexts) != params.ciphertexts_for(length):
        raise AggregationError(
            f"{len(ciphertexts)} ciphertexts for {length} integers; must be {params.ciphertexts_for(length)}"
        )
    context = load_context(secret_context, params, secret=True)
    try:
        slots = np.concatenate([decrypt_slots(context, params, ciphertext) for ciphertext in ciphertexts])
    except (ValueError, RuntimeError) as error:
        raise AggregationError("a ciphertext does not decrypt under these parameters") from error
    exact_integers(slots[length:], 0)
    return exact_integers(slots[:length], magnitude_bound)


def exact_integers(slots: np.ndarray, bound: int) -> np.ndarray:
    """Round decoded slots (float64 [n]) to int64 [n].

    Raises:
        AggregationError: if any slot is NaN, infinite, beyond +-bound, or not within 2^-6 of a whole number.
    """
    if not np.isfinite(slots).all():
        raise ImplausibleSum("a decrypted slot is not a finite number")
    rounded = np.rint(slots)
    if (np.abs(rounded) > bound).any():
        raise ImplausibleSum("a decrypted slot is out of range")
    if (np.abs(slots - rounded) > INTEGER_TOLERANCE).any():
        raise ImplausibleSum("a decrypted slot is not a whole number")
    return rounded.astype(np.int64)


def frame_ciphertexts(ciphertexts: Sequence[bytes]) -> bytes:
    """Join ciphertexts of equal size: a 4-byte little-endian count, then their bytes."""
    return COUNT.pack(len(ciphertexts)) + b"".join(ciphertexts)


def unframe_ciphertexts(params: CkksParameters, body: bytes, count: int) -> tuple[bytes, ...]:
    """Split a body into exactly `count` ciphertexts; every size and residue is checked, no library is
    involved.

    Raises:
        ValueError: if the count, a size or a residue is wrong.
    """
    size = params.ciphertext_bytes
    if len(body) != COUNT.size + count * size or COUNT.unpack_from(body)[0] != count:
        raise ValueError("wrong count or size")
    parts = tuple(body[start : start + size] for start in range(COUNT.size, len(body), size))
    for part in parts:
        parse_residues(params, part)
    return parts
