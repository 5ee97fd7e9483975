"""The accountant against exact formulas and against dp-accounting, which shares no code with it."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from privacy.accounting import (
    GaussianEvent,
    SubsampledGaussianEvent,
    compose_epsilon,
    event_from_dict,
    event_to_dict,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    group_epsilon,
    merge,
)
from privacy.errors import BudgetError

G, S = GaussianEvent, SubsampledGaussianEvent
PLAN = (G(1.42), G(4.3), S(3.4, 0.15, 150), S(4.7, 0.15, 200))  # the shape of a small run

mus = st.floats(1e-3, 30.0)
deltas = st.floats(1e-8, 0.3)
events = st.one_of(
    st.builds(G, st.floats(0.1, 100), st.integers(1, 50)),
    st.builds(S, st.floats(0.1, 100), st.floats(1e-4, 1.0), st.integers(1, 5000)),
)


def reference(history, pessimistic: bool, records: int = 1):
    """dp-accounting's privacy-loss distribution of a history; it takes the larger of both adjacencies."""
    options = {"value_discretization_interval": 1e-3, "pessimistic_estimate": pessimistic}
    whole = None
    for event in history:
        if isinstance(event, G):
            part = pld.from_gaussian_mechanism(event.noise_multiplier, sensitivity=records, **options)
            part = part.self_compose(event.count)
        else:
            rate = event.sample_rate
            part = pld.from_gaussian_mechanism(event.noise_multiplier, sampling_prob=rate, **options)
            part = part.self_compose(event.steps)
        whole = part if whole is None else whole.compose(part)
    return whole


def random_plan(seed: int):
    """A plan like those of real runs, whose epsilon is between about 0.2 and 20."""
    draw = np.random.default_rng(seed)
    history = []
    for _ in range(draw.integers(0, 3)):
        count = int(draw.integers(1, 40))
        history.append(G(float(math.sqrt(count) * np.exp(draw.uniform(0, 2.5))), count))
    for _ in range(draw.integers(1, 4)):
        rate, steps = float(np.exp(draw.uniform(-5, -0.5))), int(np.exp(draw.uniform(0, 6.5)))
        mu = np.exp(draw.uniform(-2, 0.7))
        sigma = 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
        history.append(S(sigma, rate, steps))
    return history, float(10 ** draw.uniform(-7, -3))


# ---- the Gaussian mechanism, exactly


@given(mu=mus, delta=deltas)
def test_gaussian_epsilon_inverts_gaussian_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    if epsilon > 1e-6:
        assert gaussian_delta(mu, epsilon * (1 - 1e-6)) > delta * (1 - 1e-6)


@given(epsilon=st.floats(0.0, 200.0), delta=deltas)
def test_gaussian_mu_inverts_gaussian_epsilon(epsilon, delta):
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_delta(mu, epsilon) <= delta
    assert gaussian_delta(mu * (1 + 1e-6), epsilon) > delta * (1 - 1e-6)


@given(mu=st.floats(0.01, 10), epsilon=st.floats(0, 20))
def test_gaussian_delta_is_the_textbook_formula(mu, epsilon):
    textbook = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert gaussian_delta(mu, epsilon) == pytest.approx(textbook, rel=1e-6, abs=1e-13)


def test_gaussian_edges():
    assert gaussian_delta(0.0, 1.0) == 0.0 and gaussian_delta(2.0, math.inf) == 0.0
    assert gaussian_delta(math.inf, 3.0) == 1.0
    assert gaussian_delta(1.0, 0.0) == pytest.approx(2 * norm.cdf(0.5) - 1)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0 and gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e-7, 1e-5) == 0.0  # total variation alone is below delta
    assert gaussian_mu(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e6, 1e-5) == pytest.approx(5e11, rel=1e-4)
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3771780957, abs=1e-8)  # dp-accounting's value


# ---- merging


@given(history=st.lists(events, max_size=6), order=st.randoms(use_true_random=False))
def test_merging_forgets_order_and_keeps_totals(history, order):
    shuffled = history[:]
    order.shuffle(shuffled)
    merged = merge(history)
    assert merge(shuffled) == merged == merge(merged)
    keys = [(type(e), e.noise_multiplier, getattr(e, "sample_rate", 1.0)) for e in merged]
    assert len(set(keys)) == len(keys)

    def total(items):
        return sum(e.count if isinstance(e, G) else e.steps for e in items)

    assert total(merged) == total(history)


def test_sampling_everything_is_the_plain_gaussian():
    assert merge([S(2.0, 1.0, 3), G(2.0)]) == (G(2.0, 4),)


def test_alternating_steps_merge_into_one():
    assert merge([S(1.0, 0.1, 1), S(2.0, 0.1, 1)] * 200) == (S(2.0, 0.1, 200), S(1.0, 0.1, 200))


# ---- composition


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert compose_epsilon([], 1e-5) == 0.0
    assert compose_epsilon([G(1.0), G(0.0)], 1e-5) == math.inf
    assert compose_epsilon([S(0.0, 0.01, 1)], 1e-5) == math.inf
    assert group_epsilon([S(0.0, 0.01, 1)], 1e-5, 2) == math.inf
    assert group_epsilon([], 1e-5, 5) == 0.0


@given(sigmas=st.lists(st.floats(0.2, 100), min_size=1, max_size=5), delta=deltas)
def test_gaussians_compose_exactly(sigmas, delta):
    mu = math.sqrt(sum(sigma**-2 for sigma in sigmas))
    composed = compose_epsilon([G(sigma) for sigma in sigmas], delta)
    assert composed == pytest.approx(gaussian_epsilon(mu, delta), rel=1e-9, abs=1e-9)


def check_against_reference(seed: int) -> None:
    history, delta = random_plan(seed)
    epsilon = compose_epsilon(history, delta)
    optimistic = reference(history, False).get_epsilon_for_delta(delta)
    pessimistic = reference(history, True).get_epsilon_for_delta(delta)
    assert optimistic <= epsilon, (history, delta)
    assert epsilon <= pessimistic * 1.01 + 0.005, (history, delta)  # an upper bound, and a tight one


@pytest.mark.parametrize("seed", range(5))
def test_never_below_the_optimistic_reference(seed):
    check_against_reference(seed)


@pytest.mark.slow
def test_never_below_the_optimistic_reference_200_plans():
    for seed in range(200):
        check_against_reference(seed)


def test_both_adjacencies_are_composed():
    # with few steps and a high rate the two differ widely; each has its own bound, and the larger is reported
    from privacy.prv import upper_epsilon

    for sigma, rate, steps in ((1.0, 0.9, 1), (0.7, 0.5, 3), (0.9, 0.3, 20)):
        history = [G(3.0), S(sigma, rate, steps)]
        low, high = reference(history, False), reference(history, True)
        bounds = []
        for name in ("remove", "add"):
            bounds.append(upper_epsilon(1 / 3, ((sigma, rate, steps),), 1e-4, (name,)))
            least = getattr(low, f"_pmf_{name}").get_epsilon_for_delta(1e-4)
            most = getattr(high, f"_pmf_{name}").get_epsilon_for_delta(1e-4)
            assert least <= bounds[-1] <= most * 1.01 + 0.005
        assert compose_epsilon(history, 1e-4) == max(bounds)
        assert abs(bounds[0] - bounds[1]) > 0.05


def test_several_mechanisms_cost_more_than_any_of_them():
    # an accountant that reads only its last entry reports one mechanism for all
    whole = compose_epsilon(PLAN, 1e-4)
    for rest in itertools.combinations(PLAN, len(PLAN) - 1):
        assert compose_epsilon(rest, 1e-4) < whole


def test_rounds_are_composed_and_not_reported_one_by_one():
    one = S(2.0, 0.1, 50)
    assert compose_epsilon([one] * 3, 1e-5) == compose_epsilon([S(2.0, 0.1, 150)], 1e-5)
    assert compose_epsilon([one] * 3, 1e-5) > 1.4 * compose_epsilon([one], 1e-5)


def test_more_noise_smaller_rate_fewer_steps_and_larger_delta_cost_less():
    base = compose_epsilon([S(1.5, 0.1, 100)], 1e-5)
    for event in (S(1.6, 0.1, 100), S(1.5, 0.09, 100), S(1.5, 0.1, 90)):
        assert compose_epsilon([event], 1e-5) < base
    assert compose_epsilon([S(1.5, 0.1, 100)], 1e-4) < base


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([S(1.2, 0.05, 150)], 1e-12),  # delta near the rounding error
        ([S(0.1, 0.05, 150)], 1e-5),  # losses beyond exp
        ([S(1e-3, 0.05, 10)], 1e-5),
        ([S(1.0, 1e-6, 10)], 1e-5),  # next to nothing
        ([S(1e-60, 0.5, 10)], 1e-5),
        ([G(1e-150), S(1.0, 0.1, 10)], 1e-5),
        ([G(1e9), S(1.0, 0.1, 10)], 1e-5),
        ([S(3.0, 0.999999, 10)], 1e-5),
        ([S(2.0, 0.01, 10**5)], 1e-5),
    ],
)
def test_extremes_stay_upper_bounds_without_warnings(history, delta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epsilon = compose_epsilon(history, delta)
    assert epsilon >= 0.0  # and not NaN
    if delta >= 1e-9 and epsilon < 50:
        assert epsilon >= reference(merge(history), False).get_epsilon_for_delta(delta)


def test_a_numerical_failure_falls_back_to_the_renyi_bound(monkeypatch):
    from privacy import prv

    entries = ((1.3, 0.05, 77),)
    bound = prv.renyi_epsilon(list(entries), 1e-5)
    for failure in (lambda *_: math.nan, lambda *_: -1.0, lambda *_: 1 / 0):
        monkeypatch.setattr(prv, "_prv_epsilon", failure)
        assert prv.upper_epsilon(0.5, entries, 1e-5) >= bound


# ---- groups of records


def test_a_group_of_one_is_the_record():
    assert group_epsilon(PLAN, 1e-4, 1) == compose_epsilon(PLAN, 1e-4)


def test_a_group_meets_a_plain_gaussian_with_all_its_records():
    expected = gaussian_epsilon(4 * math.sqrt(2) / 3, 1e-5)
    assert group_epsilon([G(3.0, 2)], 1e-5, 4) == pytest.approx(expected)


def test_groups_cost_more_the_larger_they_are():
    costs = [group_epsilon(PLAN, 1e-4, k) for k in (1, 2, 5)]
    assert costs[0] < costs[1] < costs[2]
    assert costs[1] > 1.9 * costs[0]  # for Gaussians groups cost more than proportionally


def test_a_group_is_bounded_from_both_sides():
    # from below by a person whose records are always sampled together, at the rate of one; from above by
    # all records in every step
    history, delta = [S(2.0, 0.1, 40)], 1e-5
    pair = pld.from_gaussian_mechanism(
        2.0,
        sensitivity=1,
        sampling_prob=1 - 0.9**2,
        value_discretization_interval=1e-3,
        pessimistic_estimate=False,
    ).self_compose(40)
    group = group_epsilon(history, delta, 2)
    assert pair.get_epsilon_for_delta(delta) <= group
    assert group <= gaussian_epsilon(2 * math.sqrt(40) / 2.0, delta)


def test_a_group_that_is_out_of_range_is_not_bounded():
    assert group_epsilon([S(0.01, 0.5, 100)], 1e-5, 5) == math.inf


# ---- what is refused, and JSON


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: G(-1.0), "noise_multiplier"),
        (lambda: G(math.nan), "noise_multiplier"),
        (lambda: G(math.inf), "noise_multiplier"),
        (lambda: G("1"), "noise_multiplier"),
        (lambda: G(1.0, 0), "count"),
        (lambda: G(1.0, 1.5), "count"),
        (lambda: G(1.0, True), "count"),
        (lambda: S(1.0, 0.0, 1), "sample_rate"),
        (lambda: S(1.0, 1.1, 1), "sample_rate"),
        (lambda: S(1.0, math.nan, 1), "sample_rate"),
        (lambda: S(1.0, 0.1, 0), "steps"),
        (lambda: compose_epsilon([G(1.0)], 0.0), "delta"),
        (lambda: compose_epsilon([G(1.0)], 1.0), "delta"),
        (lambda: compose_epsilon([], math.nan), "delta"),
        (lambda: compose_epsilon(["laplace"], 1e-5), "str"),
        (lambda: group_epsilon([G(1.0)], 1e-5, 0), "records"),
        (lambda: gaussian_mu(-1.0, 1e-5), "epsilon"),
        (lambda: gaussian_mu(math.nan, 1e-5), "epsilon"),
        (lambda: gaussian_delta(-1.0, 1.0), "mu"),
        (lambda: gaussian_epsilon(math.nan, 1e-5), "mu"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, field):
    with pytest.raises(BudgetError, match=field):
        build()


@given(event=events)
@example(event=G(np.float64(1.5), np.int64(2)))
@settings(max_examples=50)
def test_events_survive_json(event):
    import json

    assert event_from_dict(json.loads(json.dumps(event_to_dict(event)))) == event


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "laplace", "noise_multiplier": 1.0},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": 1.0, "extra": 1},
        {"kind": "subsampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": "9"},
        {"kind": ["gaussian"]},
        None,
        [],
    ],
)
def test_foreign_events_are_refused(data):
    with pytest.raises(BudgetError):
        event_from_dict(data)


@pytest.mark.parametrize("mu", [1e9, 1e17, 1e100])
def test_a_huge_mu_has_a_finite_epsilon_that_bounds_it(mu):
    epsilon = gaussian_epsilon(mu, 1e-3)
    assert mu * mu / 2 * (1 - 1e-9) <= epsilon < math.inf
    assert gaussian_delta(mu, epsilon * (1 + 1e-6)) <= 1e-3
