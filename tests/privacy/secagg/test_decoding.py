"""Shares of which some are wrong."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import masks
from privacy.secagg.decoding import decode, off
from privacy.secagg.shamir import PRIME, split


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, dict[int, int], int, set[int]]:
    """A secret, its shares, the threshold, and which of the shares are wrong."""
    points = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=14, unique=True))
    threshold = draw(st.integers(1, len(points)))
    secret = draw(st.binary(min_size=32, max_size=32))
    shares = {p: int.from_bytes(s, "big") for p, s in split(secret, threshold, points).items()}
    wrong = draw(st.sets(st.sampled_from(points)))
    for point in wrong:
        shares[point] = (shares[point] + draw(st.integers(1, PRIME - 1))) % PRIME
    return secret, shares, threshold, wrong


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_up_to_half_of_the_shares_beyond_the_threshold_may_be_wrong(case):
    secret, shares, threshold, wrong = case
    found = decode(shares, threshold)
    if 2 * len(wrong) <= len(shares) - threshold:
        assert found == (secret, wrong)
    elif found is not None:  # another polynomial that as many of them lie on
        assert 2 * len(found[1]) <= len(shares) - threshold


@given(damaged())
@settings(max_examples=100, deadline=None)
def test_shares_off_the_polynomial_of_right_ones_are_the_wrong_ones(case):
    _, shares, threshold, wrong = case
    right = [point for point in shares if point not in wrong][:threshold]
    if len(right) == threshold:
        assert off(shares, right) == wrong


@pytest.mark.parametrize("position", [0, 8, 16])
@pytest.mark.parametrize("lie", [bytes(33), b"\xff" * 33, b"", bytes(32)])
def test_one_liar_among_many_does_not_end_a_round(position: int, lie: bytes):
    """Seventeen clients of whom fourteen are needed, as the plan of so many asks for."""
    secret = secrets.token_bytes(32)
    shares = split(secret, 14, range(1, 18))
    liar = list(shares)[position]
    shares[liar] = lie
    suspects: set[int] = set()
    assert masks._recovered(shares, 14, lambda found: found == secret, suspects) == secret
    assert suspects <= {liar}


def test_who_gave_a_wrong_share_of_one_secret_is_asked_last_for_the_next():
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    suspects: set[int] = set()
    shares = split(first, 3, range(1, 7))
    shares[1] = bytes(33)
    assert masks._recovered(shares, 3, lambda found: found == first, suspects) == first
    assert suspects == {1}
    tried: list[bytes] = []
    again = split(second, 3, range(1, 7))
    again[1] = bytes(33)

    def is_right(found: bytes) -> bool:
        tried.append(found)
        return found == second

    assert masks._recovered(again, 3, is_right, suspects) == second
    assert len(tried) == 1


def test_more_wrong_shares_than_can_be_decoded_are_left_out_by_trying():
    secret = secrets.token_bytes(32)
    shares = split(secret, 3, range(1, 6))
    shares[1] = shares[2] = bytes(33)
    suspects: set[int] = set()
    assert masks._recovered(shares, 3, lambda found: found == secret, suspects) == secret
    assert suspects == {1, 2}
    shares[3] = bytes(33)
    assert masks._recovered(shares, 3, lambda found: found == secret, set()) is None
