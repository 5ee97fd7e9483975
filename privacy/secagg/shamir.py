"""Shamir's secret sharing of 32-byte secrets (Communications of the ACM 22, 1979).

A secret is the value at 0 of a random polynomial of degree threshold - 1 over the integers modulo the
smallest prime above 2^256; a share is its value at a point from 1. Any `threshold` shares give the secret
back; fewer say nothing about it, for every secret is then left with equally many polynomials.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from privacy.errors import AggregationError

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "combine", "split"]

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
"""A share is big-endian, and below `PRIME`."""


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Shares of a secret by point, from the system's randomness.

    Args:
        secret: 32 bytes.
        threshold: shares that give it back, from 1 to the number of points.
        points: distinct, from 1.

    Raises:
        AggregationError: an argument is out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise AggregationError(f"secret to be shared: {len(secret)} bytes, must be {SECRET_BYTES}")
    if not 1 <= threshold <= len(points):
        raise AggregationError(f"threshold: {threshold}; must be from 1 to the {len(points)} shares")
    _check_points(points)
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    constant = int.from_bytes(secret, "big")
    return {point: _value(constant, coefficients, point) for point in points}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of exactly as many shares as its threshold, by point.

    A wrong share gives another secret, or an error; that it is the right one is for the caller to check.

    Raises:
        AggregationError: no shares, a point out of range, a share that is none, or no 32-byte secret.
    """
    if not shares:
        raise AggregationError("shares of a secret: there are none")
    _check_points(list(shares))
    total = 0
    for share, weight in zip(shares.values(), _weights(tuple(shares)), strict=True):
        value = int.from_bytes(share, "big")
        if len(share) != SHARE_BYTES or value >= PRIME:
            raise AggregationError("shares of a secret: one of them is no share")
        total = (total + value * weight) % PRIME
    if total >= 2 ** (8 * SECRET_BYTES):
        raise AggregationError("shares of a secret: they do not belong together")
    return total.to_bytes(SECRET_BYTES, "big")


def _value(constant: int, coefficients: Sequence[int], point: int) -> bytes:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * point % PRIME
    return ((value + constant) % PRIME).to_bytes(SHARE_BYTES, "big")


@lru_cache(maxsize=16)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights: the value at 0 of a polynomial is their inner product with its values at points."""
    weights = []
    for point in points:
        over, under = 1, 1
        for other in points:
            if other != point:
                over = over * other % PRIME
                under = under * (other - point) % PRIME
        weights.append(over * pow(under, -1, PRIME) % PRIME)
    return tuple(weights)


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(1 <= point < PRIME for point in points):
        raise AggregationError("points of shares: must be distinct whole numbers from 1")
