"""Shares of a secret: enough of them give it back, and fewer leave every secret as likely as any other."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secagg.shamir import PRIME, SHARE_BYTES, combine, split

SECRETS = st.binary(min_size=32, max_size=32)


def is_probably_prime(number: int) -> bool:
    """Miller and Rabin with 20 random bases: a composite passes once in 4^20 trials."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(20):
        power = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_smallest_prime_that_holds_every_secret():
    assert is_probably_prime(PRIME)
    assert not any(is_probably_prime(2**256 + step) for step in range(1, PRIME - 2**256, 2))


@settings(max_examples=60, deadline=None)
@given(SECRETS, st.data())
def test_any_threshold_shares_give_the_secret_back(secret, data):
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count, unique=True))
    shares = split(secret, threshold, points)
    chosen = data.draw(st.permutations(points))[:threshold]
    assert combine({point: shares[point] for point in chosen}) == secret
    assert all(len(share) == SHARE_BYTES for share in shares.values())


@settings(max_examples=40, deadline=None)
@given(SECRETS, SECRETS, st.integers(2, 8))
def test_with_one_share_less_every_other_secret_fits_as_well(secret, other, threshold):
    """Whatever the secret may be, one share more makes it so: threshold - 1 shares say nothing of it."""
    points = list(range(1, threshold + 1))
    shares = split(secret, threshold, points)
    known = {point: shares[point] for point in points[:-1]}
    last = points[-1]
    # Through the known shares and `other` at 0 goes exactly one polynomial; its value at the last point:
    value = 0
    nodes = {0: int.from_bytes(other, "big")} | {p: int.from_bytes(s, "big") for p, s in known.items()}
    for point, ordinate in nodes.items():
        term = ordinate
        for node in nodes:
            if node != point:
                term = term * (last - node) * pow(point - node, -1, PRIME) % PRIME
        value = (value + term) % PRIME
    assert combine(known | {last: value.to_bytes(SHARE_BYTES, "big")}) == other


def test_shares_of_the_same_secret_differ_from_time_to_time():
    """A false alarm takes two equal draws out of 2^256."""
    first, second = (split(bytes(32), 2, [1, 2, 3]) for _ in range(2))
    assert all(first[point] != second[point] for point in first)


def test_a_wrong_share_does_not_give_the_secret():
    secret = bytes(range(32))
    shares = split(secret, 3, [1, 2, 3])
    shares[2] = bytes(SHARE_BYTES)
    try:
        assert combine(shares) != secret
    except AggregationError as error:  # what came out has more than 32 bytes
        assert "belong together" in str(error)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((bytes(31), 1, [1]), "secret"),
        ((bytes(32), 0, [1]), "threshold"),
        ((bytes(32), 3, [1, 2]), "threshold"),
        ((bytes(32), 1, [0, 1]), "points"),
        ((bytes(32), 1, [2, 2]), "points"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments, named):
    with pytest.raises(AggregationError, match=named):
        split(*arguments)


@pytest.mark.parametrize(
    "shares", [{}, {1: bytes(32)}, {1: b"\xff" * SHARE_BYTES}, {0: bytes(SHARE_BYTES)}, {1: b""}]
)
def test_what_are_no_shares_is_refused(shares):
    with pytest.raises(AggregationError, match="shares"):
        combine(shares)
