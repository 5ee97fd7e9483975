"""Plans: what they promise, what they refuse, and that they survive JSON."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import GaussianEvent, SubsampledGaussianEvent, compose_epsilon, gaussian_mu
from privacy.budget import BudgetPlan, PlannedRelease, ReleaseRequest, plan_budget, verify_plan
from privacy.errors import BudgetError

R = ReleaseRequest
LOOP = (
    R("prototypes", 0.45, "gaussian", rounds=3),
    R("counts", 0.05, "gaussian"),
    R("classifier", 0.3, "dpsgd", sample_rate=0.15, steps=60),
    R("generator", 0.2, "dpsgd", sample_rate=0.1, steps=80),
)
SUMS = (R("prototypes", 0.75, "gaussian", rounds=4), R("counts", 0.25, "gaussian"))

weights = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4)


@st.composite
def requests(draw, dpsgd: bool):
    parts = draw(weights)
    rows = []
    for index, part in enumerate(parts):
        share = part / math.fsum(parts)
        if dpsgd and draw(st.booleans()):
            rounds = draw(st.integers(1, 3))
            steps = rounds * draw(st.integers(1, 60))
            rows.append(R(f"r{index}", share, "dpsgd", rounds, draw(st.floats(0.005, 1.0)), steps))
        else:
            rows.append(R(f"r{index}", share, "gaussian", draw(st.integers(1, 40))))
    return tuple(rows)


@given(wanted=requests(dpsgd=False), epsilon=st.floats(1e-3, 1e4), delta=st.floats(1e-9, 0.1))
def test_sums_alone_meet_the_target_and_split_by_share(wanted, epsilon, delta):
    plan = plan_budget(epsilon, delta, wanted)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon
    whole = gaussian_mu(epsilon, delta) ** 2
    for request, release in zip(wanted, plan.releases, strict=True):
        assert release.rounds / release.noise_multiplier**2 == pytest.approx(request.share * whole, rel=1e-4)
    verify_plan(plan)


@given(wanted=requests(dpsgd=True), epsilon=st.floats(0.5, 20), delta=st.sampled_from([1e-6, 1e-5, 1e-4]))
@settings(max_examples=3, deadline=None, derandomize=True)
def test_any_plan_lands_just_under_its_target(wanted, epsilon, delta):
    plan = plan_budget(epsilon, delta, wanted)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon
    assert plan.epsilon == compose_epsilon(plan.events, delta)
    assert [r.name for r in plan.releases] == [r.name for r in wanted]


@pytest.mark.parametrize("steps", [1, 40])
@pytest.mark.parametrize("epsilon", [61.0, 95.0])
def test_a_large_target_without_subsampling_is_met(epsilon, steps):
    request = ReleaseRequest("all", 1.0, "dpsgd", sample_rate=1.0, steps=steps)
    plan = plan_budget(epsilon, 0.0078125, [request])
    assert 0.99 * epsilon <= plan.epsilon <= epsilon


@pytest.mark.slow
@given(wanted=requests(dpsgd=True), epsilon=st.floats(0.2, 100), delta=st.floats(1e-8, 1e-2))
@settings(max_examples=30, deadline=None)
def test_any_plan_lands_just_under_its_target_30_plans(wanted, epsilon, delta):
    plan = plan_budget(epsilon, delta, wanted)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon


def test_the_loop_is_planned_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_budget(4.0, 1e-4, LOOP)
    assert 0.99 <= plan.epsilon / 4.0 <= 1.0
    assert (plan.target_epsilon, plan.delta) == (4.0, 1e-4)
    assert all(release.noise_multiplier > 0 for release in plan.releases)
    assert plan.release("classifier").event == SubsampledGaussianEvent(
        plan.release("classifier").noise_multiplier, 0.15, 60
    )
    assert plan.release("prototypes").event == GaussianEvent(plan.release("prototypes").noise_multiplier, 3)
    # shares hold within a few percent of mu^2: own epsilons keep their order
    own = {r.name: compose_epsilon([r.event], plan.delta) for r in plan.releases}
    assert own["prototypes"] > own["classifier"] > own["generator"] > own["counts"]


def test_the_same_request_gives_the_same_plan():
    assert plan_budget(4.0, 1e-4, LOOP) == plan_budget(4.0, 1e-4, list(LOOP))


def test_more_epsilon_means_less_noise_everywhere():
    tight, loose = plan_budget(2.0, 1e-4, LOOP), plan_budget(4.0, 1e-4, LOOP)
    for one, other in zip(tight.releases, loose.releases, strict=True):
        assert one.noise_multiplier > other.noise_multiplier


def test_infinite_epsilon_plans_no_noise():
    plan = plan_budget(math.inf, 1e-4, LOOP)
    assert plan.epsilon == math.inf == plan.target_epsilon
    assert {release.noise_multiplier for release in plan.releases} == {0.0}
    assert compose_epsilon(plan.events, plan.delta) == math.inf
    assert plan.to_dict()["epsilon"] == "inf" == plan.to_dict()["target_epsilon"]
    assert BudgetPlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False))) == plan


def test_rounds_make_up_the_release():
    release = PlannedRelease("classifier", 1.0, "dpsgd", 4, 0.1, 20, noise_multiplier=1.5)
    assert release.steps_per_round == 5
    assert release.round_event == SubsampledGaussianEvent(1.5, 0.1, 5)
    assert release.event == SubsampledGaussianEvent(1.5, 0.1, 20)
    sums = PlannedRelease("prototypes", 1.0, "gaussian", 4, noise_multiplier=1.5)
    assert (sums.round_event, sums.event) == (GaussianEvent(1.5, 1), GaussianEvent(1.5, 4))
    assert sums.steps_per_round is None


def test_plans_survive_json():
    plan = plan_budget(3.0, 1e-5, SUMS)
    assert BudgetPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan, "4", None, True, -math.inf])
def test_an_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(BudgetError, match="^epsilon must be above 0"):
        plan_budget(epsilon, 1e-5, SUMS)


@pytest.mark.parametrize("delta", [0, 0.0, 1, 1.0, -1e-5, 2.0, math.nan, "1e-5", None, True, math.inf])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(BudgetError, match="^delta must be strictly between 0 and 1"):
        plan_budget(4.0, delta, SUMS)


@pytest.mark.parametrize("shares", [(0.5, 0.4), (0.5, 0.6), (1.0, 1e-5)])
def test_shares_must_sum_to_one(shares):
    wanted = [R(f"r{i}", share, "gaussian") for i, share in enumerate(shares)]
    with pytest.raises(BudgetError, match="shares must sum to 1.*r0"):
        plan_budget(4.0, 1e-5, wanted)
    with pytest.raises(BudgetError, match="shares must sum to 1"):
        plan_budget(math.inf, 1e-5, wanted)


def test_thirds_sum_to_one_within_the_tolerance():
    plan_budget(4.0, 1e-5, [R(name, 0.3333333, "gaussian") for name in "abc"])


def test_plans_need_releases_with_names_of_their_own():
    with pytest.raises(BudgetError, match="at least one"):
        plan_budget(4.0, 1e-5, [])
    with pytest.raises(BudgetError, match="'counts' is planned twice"):
        plan_budget(4.0, 1e-5, [R("counts", 0.5, "gaussian"), R("counts", 0.5, "gaussian")])
    with pytest.raises(BudgetError, match="no release 'generator'; it has prototypes, counts"):
        plan_budget(4.0, 1e-5, SUMS).release("generator")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: R("", 0.5, "gaussian"), "name"),
        (lambda: R("x", 0.0, "gaussian"), "share of x"),
        (lambda: R("x", -0.1, "gaussian"), "share of x"),
        (lambda: R("x", 1.5, "gaussian"), "share of x"),
        (lambda: R("x", math.nan, "gaussian"), "share of x"),
        (lambda: R("x", 0.5, "laplace"), "kind of x"),
        (lambda: R("x", 0.5, "gaussian", 0), "rounds of x"),
        (lambda: R("x", 0.5, "gaussian", sample_rate=0.1), "x is a plain Gaussian"),
        (lambda: R("x", 0.5, "gaussian", steps=3), "x is a plain Gaussian"),
        (lambda: R("x", 0.5, "dpsgd", steps=3), "sample_rate of x"),
        (lambda: R("x", 0.5, "dpsgd", 1, 0.0, 3), "sample_rate of x"),
        (lambda: R("x", 0.5, "dpsgd", 1, 1.2, 3), "sample_rate of x"),
        (lambda: R("x", 0.5, "dpsgd", 1, 0.1), "steps of x"),
        (lambda: R("x", 0.5, "dpsgd", 1, 0.1, 2.5), "steps of x"),
        (lambda: R("x", 0.5, "dpsgd", 2, 0.1, 3), "multiple of its 2 rounds"),
        (lambda: PlannedRelease("x", 1.0, "gaussian", noise_multiplier=-1.0), "noise_multiplier of x"),
        (lambda: PlannedRelease("x", 1.0, "gaussian", noise_multiplier=math.inf), "noise_multiplier of x"),
    ],
)
def test_values_out_of_range_are_refused_by_name(build, field):
    with pytest.raises(BudgetError, match=field):
        build()


def changed(**fields):
    return {**plan_budget(3.0, 1e-5, SUMS).to_dict(), **fields}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        changed(delta=0.0),
        changed(delta="1e-5"),
        changed(epsilon=-1.0),
        changed(epsilon="infinite"),
        changed(epsilon=None),
        changed(target_epsilon=0),
        changed(releases=[]),
        changed(releases=None),
        changed(releases=[1]),
        changed(releases="ab"),
        changed(releases=changed()["releases"][:1]),
        changed(releases=[{**row, "extra": 1} for row in changed()["releases"]]),
        changed(releases=[{k: v for k, v in row.items() if k != "kind"} for row in changed()["releases"]]),
        changed(releases=[{**row, "noise_multiplier": "0"} for row in changed()["releases"]]),
        changed(releases=[{**row, "kind": ["gaussian"]} for row in changed()["releases"]]),
        changed(more=1),
    ],
)
def test_malformed_plans_are_refused(data):
    with pytest.raises(BudgetError):
        BudgetPlan.from_dict(data)


def test_a_plan_that_understates_its_cost_is_found_out():
    plan = plan_budget(4.0, 1e-4, LOOP)
    verify_plan(plan)
    with pytest.raises(BudgetError, match="claims epsilon 3 but composes to"):
        verify_plan(replace(plan, epsilon=3.0))
    with pytest.raises(BudgetError, match="above its target"):
        verify_plan(replace(plan, target_epsilon=2.0))
    for index in (0, len(plan.releases) - 1):
        quiet = [
            replace(r, noise_multiplier=r.noise_multiplier * (0.5 if i == index else 1.0))
            for i, r in enumerate(plan.releases)
        ]
        with pytest.raises(BudgetError, match="composes to"):
            verify_plan(replace(plan, releases=tuple(quiet)))
    silent = tuple(replace(r, noise_multiplier=0.0) for r in plan.releases)
    with pytest.raises(BudgetError, match="composes to inf"):
        verify_plan(replace(plan, releases=silent))


def test_every_release_counts_towards_the_claim():
    plan = plan_budget(4.0, 1e-4, LOOP)
    for left_out in ("counts", "generator"):
        rest = [release.event for release in plan.releases if release.name != left_out]
        assert compose_epsilon(rest, plan.delta) < plan.epsilon
