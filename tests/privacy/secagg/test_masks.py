"""Masks cancel in every sum that may be opened, exactly, and leave everything else uniform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from privacy.errors import AggregationError
from privacy.secagg.mask_terms import largest_modulus
from privacy.secagg.masks import centred, remove_masks, unmask
from privacy.secagg.parameters import CkksParameters

from .mask_parties import MODULUS, ROUNDS, MaskParties

ROUND = "centre-0"
LENGTH = ROUNDS[ROUND]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_masks_cancel_whoever_drops_out_on_the_way(data):
    """At each of the five steps some clients fall silent, down to as many as the threshold."""
    count = data.draw(st.integers(2, 6))
    threshold = data.draw(st.integers(2, count))
    steps, left = [], [f"client-{number}" for number in range(count)]
    for step in range(3):
        least = threshold if step < 2 else max(threshold, 1)
        size = data.draw(st.integers(least, len(left)))
        left = sorted(data.draw(st.permutations(left))[:size])
        steps.append(left)
    offering, dealing, signing = steps
    size = data.draw(st.integers(threshold, len(signing)))
    contributing = sorted(data.draw(st.permutations(signing))[:size])
    size = data.draw(st.integers(threshold, len(signing)))
    helping = data.draw(st.permutations(signing))[:size]
    with TemporaryDirectory() as place:
        parties = MaskParties(Path(place), count, threshold)
        parties.agree(offering, dealing, signing)
        values = {
            client: np.array(data.draw(st.lists(st.integers(-5000, 5000), min_size=LENGTH, max_size=LENGTH)))
            for client in contributing
        }
        total = sum(parties.contribute(client, ROUND, values[client]) for client in contributing)
        found = parties.unmask(ROUND, total, contributing, helping)
    np.testing.assert_array_equal(found, sum(values.values()))


@pytest.mark.parametrize("clients", [2, 3, 5, 10, 50, 200])
def test_a_modulus_fits_what_encryption_holds_and_no_larger_one_does(clients):
    params = CkksParameters()
    modulus = largest_modulus(params, clients)
    assert modulus & (modulus - 1) == 0

    def fits(modulus: int) -> bool:
        return modulus // 2 * clients <= params.max_sum and modulus // 2 <= params.max_value

    assert fits(modulus) and not fits(2 * modulus)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_ends_of_their_range_are_exact_through_the_encryption(tmp_path, sign):
    from privacy.secagg.aggregation import sum_contributions
    from privacy.secagg.ciphertexts import generate_keys
    from privacy.secagg.contribution import Contribution, ContributionHeader
    from privacy.secagg.packing import decrypt_integers, encrypt_integers

    params = CkksParameters(4096, (54, 55), 26)
    modulus = largest_modulus(params, 3)
    parties = MaskParties(tmp_path, 3, 3, modulus)
    parties.agree()
    limit = (modulus // 2 - 1) // 3
    values = np.array([limit, -limit, limit, 0, 1, -1, limit]) * sign
    public, secret = generate_keys(params)
    sent = []
    for client in parties.keys:
        header = ContributionHeader(client, "run-1", ROUND, "key", params.identifier, LENGTH)
        masked = parties.contribute(client, ROUND, values)
        sent.append(Contribution(header, tuple(encrypt_integers(public, params, masked)), client))
    total = decrypt_integers(secret, params, sum_contributions(params, sent), LENGTH, 3 * (modulus // 2))
    clients = list(parties.keys)
    np.testing.assert_array_equal(parties.unmask(ROUND, total, clients, clients), 3 * values)


def is_uniform(words: np.ndarray, modulus: int, cells: int = 64) -> bool:
    """Chi-square test over equal cells of [-M/2, M/2) with an error rate of 1e-9."""
    seen = np.bincount((words + modulus // 2) * cells // modulus, minlength=cells)
    expected = len(words) / cells
    return bool(((seen - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-9, cells - 1))


def test_a_contribution_is_uniform_to_whoever_lacks_one_of_its_masks(tmp_path):
    """Server, authority and one other client open all they can: the two honest ones stay uniform apart, and
    together are what they are. Three tests of error rate 1e-9 each."""
    length = 40_000
    parties = MaskParties(tmp_path, 3, 3)
    parties.terms = replace(parties.terms, rounds={ROUND: length})
    parties.agree()
    values = np.full(length, 77)
    sent = {client: parties.contribute(client, ROUND, values) for client in parties.keys}
    assert is_uniform(sent["client-0"], MODULUS)
    clients, opened = list(parties.keys), parties.opened()
    book = parties.book("client-2")
    seeds = {client: parties.book(client)._secret(ROUND, "seed") for client in clients}
    private = {"client-2": book._secret(ROUND, "key")}  # a colluder, whose masks they know
    for client in ("client-0", "client-1"):
        left = remove_masks(parties.terms, ROUND, sent[client], [client], seeds, private, opened)
        assert is_uniform(left, MODULUS)
    both = sent["client-0"] + sent["client-1"]
    found = remove_masks(parties.terms, ROUND, both, ["client-0", "client-1"], seeds, private, opened)
    assert (found == 2 * 77).all()
    assert not is_uniform(values, MODULUS)


def test_masks_of_two_rounds_two_pairs_and_two_clients_differ(tmp_path):
    """A false alarm takes two equal streams of 140 random bits."""
    parties = MaskParties(tmp_path, 3, 3)
    parties.terms = replace(parties.terms, rounds={"centre-0": 7, "moments-0": 7})
    parties.agree()
    zeros = np.zeros(7, dtype=np.int64)
    sent = {
        tuple(parties.contribute(client, round_id, zeros))
        for client in parties.keys
        for round_id in ("centre-0", "moments-0")
    }
    assert len(sent) == 6


@pytest.fixture
def answered(tmp_path):
    """Four of five clients have contributed, three are needed; and what each gave for their sum."""
    parties = MaskParties(tmp_path, 5, 3)
    parties.agree()
    present = ["client-0", "client-1", "client-2", "client-3"]
    values = np.arange(LENGTH)
    total = sum(parties.contribute(client, ROUND, values) for client in present)
    answers = {client: parties.book(client).reveal(ROUND, present, True) for client in present}

    def attempt(**others: list[bytes]) -> np.ndarray:
        given = answers | {name.replace("_", "-"): shares for name, shares in others.items()}
        return unmask(parties.terms, ROUND, total, present, parties.opened(), given)

    np.testing.assert_array_equal(attempt(), 4 * values)
    return answers, attempt, 4 * values


@pytest.mark.parametrize("position", [1, 4])  # of the seed of client-1, and of the mask key of client-4
def test_a_wrong_share_is_done_without_where_there_are_enough_others(answered, position):
    answers, attempt, total = answered
    wrong = list(answers["client-0"])
    wrong[position] = bytes(33)
    np.testing.assert_array_equal(attempt(client_0=wrong), total)
    more = list(answers["client-1"])
    more[position] = bytes(33)
    with pytest.raises(AggregationError, match=f"wrong shares of a mask of client-{position}"):
        attempt(client_0=wrong, client_1=more)


@pytest.mark.parametrize("few", [[], [b""] * 5, [bytes(33)] * 4])
def test_too_few_shares_are_not_enough(answered, few):
    _, attempt, total = answered
    np.testing.assert_array_equal(attempt(client_0=few), total)
    with pytest.raises(AggregationError, match="2 clients gave a share of a mask of client-0"):
        attempt(client_0=few, client_1=few)


@given(st.integers(-(2**40), 2**40), st.integers(1, 32))
def test_representatives_lie_about_zero(value, bits):
    modulus = 2**bits
    found = int(centred(np.array([value]), modulus)[0])
    assert -modulus // 2 <= found < max(modulus // 2, 1) and (found - value) % modulus == 0
