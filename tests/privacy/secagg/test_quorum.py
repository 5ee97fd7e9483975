"""How many honest clients are in a sum that can be opened, held against every attack of small federations."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg.quorum import fewest_contributors, honest_in_a_sum


def opened(answers: list[frozenset[int] | None], colluding: int, contributors: int) -> int | None:
    """Honest clients in the sum that these answers open, None if they open none, 0 if masks fail altogether.

    Args:
        answers: of each honest client, whom the set that it was told of leaves out; None if it was told none.
            Colluders give shares of both kinds.
    """
    told = [left_out for left_out in answers if left_out is not None]
    inside = 0
    for client in range(len(answers)):
        keys = colluding + sum(client in left_out for left_out in told)
        seeds = colluding + sum(client not in left_out for left_out in told)
        if seeds >= contributors and keys >= contributors:
            return 0
        if seeds < contributors and keys < contributors:
            return None  # what it agreed on with the others stays in every sum of theirs
        inside += seeds >= contributors
    return inside


def smallest_opened(clients: int, colluding: int, contributors: int) -> int:
    """Fewest honest clients in a sum that can be opened, by trying every answer of every honest client."""
    honest = clients - colluding
    choices = [None] + [
        frozenset(left_out)
        for size in range(clients - contributors + 1)
        for left_out in combinations(range(honest), size)
    ]
    tried = (opened(list(answers), colluding, contributors) for answers in product(choices, repeat=honest))
    return min((inside for inside in tried if inside is not None), default=honest)


@pytest.mark.parametrize(
    ("clients", "colluding"), [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (5, 1), (5, 2), (6, 2), (7, 3)]
)
def test_no_attack_opens_a_smaller_sum_than_is_told(clients, colluding):
    for contributors in range(max(2, clients - 2), clients + 1):
        found = smallest_opened(clients, colluding, contributors)
        told = honest_in_a_sum(clients, colluding, contributors)
        assert told <= found, contributors
        if 2 * contributors <= clients + colluding:
            assert told == 0


def test_where_the_threshold_is_too_low_both_secrets_of_a_client_can_be_learnt():
    assert smallest_opened(4, 2, 3) == 0 == honest_in_a_sum(4, 2, 3)


def test_telling_clients_different_sets_opens_less_than_one_set_where_many_may_be_missing():
    """The smallest set has three honest clients here, and so has every sum if all are told the same."""
    answers = [frozenset(left_out) for left_out in ({1, 2}, {0, 2}, {0, 1}, {0, 1}, {2})]
    assert opened(answers, 0, 3) == 2 == honest_in_a_sum(5, 0, 3)
    same = [frozenset(left_out) for size in range(3) for left_out in combinations(range(5), size)]
    assert min(opened([left_out] * 5, 0, 3) for left_out in same) == 3


@given(st.integers(2, 60), st.data())
def test_few_missing_clients_cost_no_honest_one(clients, data):
    colluding = data.draw(st.integers(0, clients - 2))
    contributors = data.draw(st.integers(colluding + 2, clients))
    if (clients - contributors) ** 2 < contributors - colluding:
        assert honest_in_a_sum(clients, colluding, contributors) == contributors - colluding


@given(st.integers(1, 60), st.integers(0, 60))
def test_the_smallest_number_of_contributors_that_masks_take(clients, colluding):
    fewest = fewest_contributors(clients, colluding)
    if clients < colluding + 2:
        assert fewest is None
        return
    assert honest_in_a_sum(clients, colluding, fewest) == fewest - colluding >= 2
    assert 2 * fewest > clients + colluding
