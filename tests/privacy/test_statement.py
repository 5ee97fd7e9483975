"""The statement: numbers that follow from the plan, words that do not claim more than the numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from privacy.accounting import GaussianEvent, compose_epsilon, gaussian_epsilon, group_epsilon
from privacy.budget import BudgetPlan, ReleaseRequest, plan_budget
from privacy.errors import BudgetError
from privacy.statement import build_statement

DELTA = 1e-4


@pytest.fixture(scope="module")
def plan() -> BudgetPlan:
    return plan_budget(
        4.0,
        DELTA,
        [
            ReleaseRequest("prototypes", 0.45, "gaussian", rounds=2),
            ReleaseRequest("counts", 0.05, "gaussian"),
            ReleaseRequest("classifier", 0.5, "dpsgd", sample_rate=0.15, steps=60),
        ],
    )


def noise_of(plan: BudgetPlan, name: str) -> float:
    return plan.release(name).noise_multiplier


def state(plan: BudgetPlan, **changes):
    arguments = {
        "trust": "local",
        "clients": 5,
        "honest_clients": 3,
        "colluding": 1,
        "min_contributors": 4,
        "population": {"name": "digits", "visibility": "public"},
        "secure_noise": True,
        "encrypted_releases": ("prototypes",),
        "records": (1, 2),
    }
    return build_statement(plan, **{**arguments, **changes})


def coalition(statement, *words):
    rows = [row for row in statement["coalitions"] if all(word in row["who"] for word in words)]
    assert len(rows) == 1, (words, [row["who"] for row in statement["coalitions"]])
    return rows[0]["epsilon"]


def test_the_head_of_the_statement(plan):
    statement = state(plan)
    assert statement["schema_version"] == 1
    assert statement["unit"] == "one record of one client"
    assert statement["neighbours"] == "add or remove one record"
    assert (statement["target_epsilon"], statement["epsilon"]) == (4.0, plan.epsilon)
    assert statement["delta"] == DELTA
    assert statement["population"] == {"name": "digits", "visibility": "public"}
    assert json.loads(json.dumps(statement, allow_nan=False)) == statement


def test_the_words_never_claim_less_than_the_number(plan):
    shown = state(plan)["guarantee"].split("(")[1].split(",")[0]
    assert plan.epsilon <= float(shown) <= plan.epsilon + 1e-3


def test_every_mechanism_has_its_row(plan):
    rows = {row["name"]: row for row in state(plan)["mechanisms"]}
    assert set(rows) == {"prototypes", "counts", "classifier"}
    for release in plan.releases:
        row = rows[release.name]
        assert row["noise_multiplier"] == release.noise_multiplier
        assert row["share_of_mu_squared"] == release.share
        assert (row["sample_rate"], row["steps"]) == (release.sample_rate, release.steps)
        assert row["rounds"] == release.rounds
        assert row["own_epsilon"] == compose_epsilon([release.event], DELTA)
    assert rows["prototypes"]["encrypted"] and not rows["counts"]["encrypted"]
    assert rows["prototypes"]["mu"] == pytest.approx(math.sqrt(2) / noise_of(plan, "prototypes"))
    assert rows["classifier"]["mu"] is None
    assert "discrete" in rows["prototypes"]["noise"] and "continuous" in rows["classifier"]["noise"]
    assert (
        "continuous"
        in {r["name"]: r for r in state(plan, continuous_releases=("counts",))["mechanisms"]}["counts"][
            "noise"
        ]
    )


def test_local_trust_holds_against_everybody(plan):
    statement = state(plan, honest_clients=None)
    assert coalition(statement, "any coalition") == plan.epsilon
    assert coalition(statement, "key authority alone") == compose_epsilon(
        [plan.release("prototypes").event], DELTA
    )
    assert statement["honest_clients"] is None and statement["colluding_clients"] is None
    assert all(
        row["noise_multiplier_of_one_client"] == row["noise_multiplier"] for row in statement["mechanisms"]
    )


def test_distributed_trust_names_what_stronger_coalitions_break(plan):
    statement = state(plan, trust="distributed")
    sigma = plan.release("prototypes").noise_multiplier
    sums = GaussianEvent(sigma / math.sqrt(3), 2)
    rest = [plan.release("counts").event, plan.release("classifier").event]
    alone = compose_epsilon([sums, *rest], DELTA)
    assert coalition(statement, "server with any 1") == plan.epsilon
    assert coalition(statement, "alone, following") == pytest.approx(
        gaussian_epsilon(math.sqrt(2) / sigma, DELTA)
    )
    assert coalition(statement, "against the protocol") == compose_epsilon([sums], DELTA)
    assert coalition(statement, "server with key authority") == alone > plan.epsilon
    assert coalition(statement, "server with all other clients") == alone
    row = statement["mechanisms"][0]
    assert row["noise_multiplier_of_one_client"] == pytest.approx(sigma / math.sqrt(3))
    assert statement["mechanisms"][1]["noise_multiplier_of_one_client"] == noise_of(plan, "counts")
    assert any("roster" in limit for limit in statement["not_covered"])
    assert "server together with any 1" in statement["guarantee"]


def test_a_person_with_several_records(plan):
    rows = state(plan)["records_of_one_person"]
    assert [row["records"] for row in rows] == [1, 2]
    assert rows[0]["epsilon"] == plan.epsilon
    assert rows[1]["epsilon"] == group_epsilon(plan.events, DELTA, 2) > plan.epsilon


def test_no_noise_is_no_guarantee():
    plan = plan_budget(math.inf, DELTA, [ReleaseRequest("prototypes", 1.0, "gaussian")])
    statement = state(plan)
    assert statement["epsilon"] == "inf" == statement["target_epsilon"]
    assert {row["epsilon"] for row in statement["coalitions"]} == {"inf"}
    assert statement["guarantee"].startswith("None")
    assert statement["mechanisms"][0]["noise"] == "none" and statement["mechanisms"][0]["mu"] == "inf"
    json.dumps(statement, allow_nan=False)


def test_insecure_noise_is_shouted(plan):
    statement = state(plan, secure_noise=False)
    assert statement["randomness"]["secure"] is False
    assert "INSECURE" in statement["randomness"]["text"]
    assert "seed" in statement["not_covered"][0]
    assert "INSECURE" not in json.dumps(state(plan))


def test_what_is_not_covered_is_said(plan):
    limits = " ".join(state(plan, anchored=False)["not_covered"])
    for topic in ("low-order bits", "two or more clients", "timing", "ledger that is set back", "Other runs"):
        assert topic in limits
    assert "set back" not in " ".join(state(plan)["not_covered"])


def test_a_plan_that_understates_itself_is_restated(plan):
    assert state(replace(plan, epsilon=0.1))["epsilon"] == plan.epsilon


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"trust": "full"}, "trust"),
        ({"clients": 0}, "clients"),
        ({"min_contributors": 0}, "min_contributors"),
        ({"min_contributors": 6}, "min_contributors"),
        ({"trust": "distributed", "honest_clients": None}, "honest_clients"),
        ({"trust": "distributed", "honest_clients": 0}, "honest_clients"),
        ({"trust": "distributed", "colluding": 0}, "colluding"),
        ({"trust": "distributed", "honest_clients": 4}, "min_contributors must be at least"),
        ({"encrypted_releases": ("generator",)}, "no release 'generator'"),
        ({"encrypted_releases": ("classifier",)}, "classifier is DP-SGD"),
        ({"records": (0,)}, "records"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(plan, changes, field):
    with pytest.raises(BudgetError, match=field):
        state(plan, **changes)


def test_masks_take_the_key_authority_out_of_the_assumptions(plan):
    """With three honest clients in every sum that can be opened, the guarantee holds against it as well."""
    statement = state(plan, trust="distributed", masked_honest=3)
    assert coalition(statement, "server with key authority and any 1") == plan.epsilon
    assert coalition(statement, "key authority alone") == 0.0
    assert "server and the key authority together with any 1" in statement["guarantee"]
    sigma = plan.release("prototypes").noise_multiplier
    rest = [plan.release("counts").event, plan.release("classifier").event]
    alone = compose_epsilon([GaussianEvent(sigma / math.sqrt(3), 2), *rest], DELTA)
    assert coalition(statement, "server with key authority and more than 1") == alone
    assert coalition(statement, "server with all other clients") == alone
    assert "it masked" in statement["mechanisms"][0]["seen_in_the_clear_by"]
    assert not any("recovered" in limit for limit in statement["not_covered"])


def test_masks_over_fewer_honest_clients_than_share_the_noise_are_told_so(plan):
    statement = state(plan, trust="distributed", masked_honest=2)
    sigma = plan.release("prototypes").noise_multiplier * math.sqrt(2 / 3)
    rest = [plan.release("counts").event, plan.release("classifier").event]
    found = coalition(statement, "server with key authority and any 1")
    assert found == pytest.approx(compose_epsilon([GaussianEvent(sigma, 2), *rest], DELTA), rel=1e-9)
    assert plan.epsilon < found < coalition(statement, "more than 1")
    assert "key authority" not in statement["guarantee"]


def test_masks_under_local_trust_change_what_the_authority_sees_and_no_guarantee(plan):
    masked, plain = (state(plan, honest_clients=None, masked_honest=honest) for honest in (3, None))
    assert masked["guarantee"] == plain["guarantee"]
    assert coalition(masked, "any coalition") == plan.epsilon
    assert coalition(masked, "key authority alone") == 0.0 < coalition(plain, "key authority alone")


@pytest.mark.parametrize("honest", [1, 5])
def test_masks_that_cannot_be_are_refused(plan, honest):
    with pytest.raises(BudgetError, match="masked_honest"):
        state(plan, masked_honest=honest)
