"""Shamir's shares, some of them wrong: which polynomial most of them lie on.

Of n shares with threshold t up to (n - t) / 2 may be wrong, in whatever way (Gao, "A new algorithm for
decoding Reed-Solomon codes", 2003); O(n^2) operations. Polynomials are lists of coefficients modulo `PRIME`,
the constant first, without zeros at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privacy.secagg.shamir import PRIME, SECRET_BYTES

__all__ = ["decode", "off"]


def decode(values: Mapping[int, int], threshold: int) -> tuple[bytes, frozenset[int]] | None:
    """The secret that most shares agree on, and the points of those that do not.

    Args:
        values: point -> share, both in [0, PRIME), points not 0. threshold: of the sharing, at least 1.

    Returns:
        32 bytes and points; None where more than (n - threshold) / 2 of them are wrong.
    """
    points = list(values)
    whole, through = _interpolated(points, [values[point] for point in points])
    # The remainder sequence of both, to the first of degree below (n + t) / 2.
    before, remainder = whole, through
    factor_before, factor = [], [1]
    while 2 * (len(remainder) - 1) >= len(points) + threshold:
        quotient, rest = _divided(before, remainder)
        before, remainder = remainder, rest
        factor_before, factor = factor, _minus(factor_before, _product(quotient, factor))
    found, rest = _divided(remainder, factor)
    if rest or len(found) > threshold:
        return None
    secret = found[0] if found else 0
    if secret >= 2 ** (8 * SECRET_BYTES):
        return None
    wrong = frozenset(point for point in points if _at(found, point) != values[point])
    return secret.to_bytes(SECRET_BYTES, "big"), wrong


def off(values: Mapping[int, int], chosen: Sequence[int]) -> frozenset[int]:
    """Points whose share is not on the polynomial through the `chosen` ones."""
    _, through = _interpolated(chosen, [values[point] for point in chosen])
    return frozenset(point for point in values if _at(through, point) != values[point])


def _interpolated(points: Sequence[int], values: Sequence[int]) -> tuple[list[int], list[int]]:
    """The product of all (x - point), and the polynomial of least degree through all values."""
    whole = [1]
    for point in points:
        whole = _product(whole, [-point % PRIME, 1])
    through = [0] * len(points)
    for point, value in zip(points, values, strict=True):
        basis, _ = _divided(whole, [-point % PRIME, 1])
        weight = value * pow(_at(basis, point), -1, PRIME) % PRIME
        for power, coefficient in enumerate(basis):
            through[power] = (through[power] + weight * coefficient) % PRIME
    return whole, _trimmed(through)


def _divided(over: Sequence[int], under: Sequence[int]) -> tuple[list[int], list[int]]:
    """Quotient and remainder; `under` is not empty."""
    rest, quotient = list(over), [0] * max(0, len(over) - len(under) + 1)
    inverse = pow(under[-1], -1, PRIME)
    for shift in reversed(range(len(quotient))):
        factor = quotient[shift] = rest[shift + len(under) - 1] * inverse % PRIME
        for power, coefficient in enumerate(under):
            rest[shift + power] = (rest[shift + power] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _product(first: Sequence[int], second: Sequence[int]) -> list[int]:
    found = [0] * max(0, len(first) + len(second) - 1)
    for shift, factor in enumerate(first):
        for power, coefficient in enumerate(second):
            found[shift + power] = (found[shift + power] + factor * coefficient) % PRIME
    return _trimmed(found)


def _minus(first: Sequence[int], second: Sequence[int]) -> list[int]:
    longer = max(len(first), len(second))
    return _trimmed(
        [
            ((first[power] if power < len(first) else 0) - (second[power] if power < len(second) else 0))
            % PRIME
            for power in range(longer)
        ]
    )


def _at(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _trimmed(coefficients: list[int]) -> list[int]:
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    return coefficients
