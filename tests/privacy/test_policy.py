from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.budget import BudgetPlan, PlannedRelease
from privacy.errors import BudgetError, PolicyError
from privacy.policy import ClientPolicy

from .ledger_cases import make_plan, make_policy

KEYS = {f"client-{i}": f"{i:064x}" for i in range(1, 5)}

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
caps = st.floats(min_value=1e-6, allow_nan=False, allow_infinity=True)


@given(
    population=names,
    per_run=caps,
    lifetime=caps,
    delta=st.floats(min_value=1e-300, max_value=1.0),
    allowed=st.frozensets(names, max_size=4),
    roster=st.dictionaries(names, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=3),
    insecure=st.booleans(),
    used=st.frozensets(names, max_size=3) | st.just(frozenset({"*"})),
)
def test_a_policy_survives_its_file(
    tmp_path_factory, population, per_run, lifetime, delta, allowed, roster, insecure, used
):
    if len(set(roster.values())) != len(roster):
        return
    policy = ClientPolicy(
        *(population, per_run, lifetime, delta, allowed, 3, roster, "ab" * 32, insecure),
        allowed_architectures=used,
        allowed_datasets=used,
    )
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.save(path)
    assert ClientPolicy.load(path) == policy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("population", "../up"),
        ("population", ""),
        ("max_epsilon_per_run", 0.0),
        ("max_epsilon_per_run", math.nan),
        ("max_epsilon_lifetime", -1.0),
        ("max_epsilon_lifetime", "4"),
        ("max_delta_lifetime", 0.0),
        ("max_delta_lifetime", 1.5),
        ("min_contributors", 0),
        ("min_contributors", 2.5),
        ("roster", {"client-0": "abc"}),
        ("roster", {"a": "11" * 32, "b": "11" * 32}),
        ("authority", "zz"),
        ("allow_insecure_noise", "no"),
        ("visibility", "secret"),
        ("trust", "central"),
        ("colluding_clients", 0),
        ("allowed_releases", "counts"),
        ("allowed_releases", {"*"}),
        ("allowed_architectures", "cnn"),
        ("allowed_architectures", {"../cnn"}),
        ("allowed_architectures", {"*", "cnn"}),
        ("allowed_datasets", [["digits"]]),
        ("allowed_datasets", 3),
    ],
)
def test_impossible_rules_are_refused_by_name(field, value):
    with pytest.raises(BudgetError, match=field):
        make_policy(**{field: value})


def test_a_policy_file_says_everything(tmp_path):
    path = tmp_path / "policy.toml"
    make_policy(roster=KEYS).save(path)
    text = path.read_text()
    path.write_text(text.replace("max_epsilon_lifetime", "max_epsilon_livetime"))
    with pytest.raises(BudgetError, match="unknown field 'max_epsilon_livetime'"):
        ClientPolicy.load(path)
    path.write_text("\n".join(line for line in text.splitlines() if "max_epsilon_lifetime" not in line))
    with pytest.raises(BudgetError, match="'max_epsilon_lifetime' is missing"):
        ClientPolicy.load(path)
    for version in ("4", "0", "true", '"3"'):
        path.write_text(text.replace("schema_version = 3", f"schema_version = {version}"))
        with pytest.raises(PolicyError, match="schema_version"):
            ClientPolicy.load(path)
    path.write_text(text.replace('allowed_datasets = ["*"]\n', ""))
    with pytest.raises(PolicyError, match="'allowed_datasets' is missing"):
        ClientPolicy.load(path)
    path.write_text("this is not TOML")
    with pytest.raises(BudgetError, match="not valid TOML"):
        ClientPolicy.load(path)
    with pytest.raises(BudgetError, match="cannot be read"):
        ClientPolicy.load(tmp_path / "none.toml")


def test_a_plan_within_the_rules_is_accepted():
    plan = make_plan()
    make_policy(max_epsilon_per_run=plan.epsilon, min_contributors=3).check_plan(plan, "local", 3)


def test_a_plan_that_costs_too_much_is_refused():
    plan = make_plan()
    with pytest.raises(BudgetError, match="cap of"):
        make_policy(max_epsilon_per_run=plan.epsilon * 0.999).check_plan(plan, "local", 1)
    loud = tuple(dataclasses.replace(r, noise_multiplier=0.0) for r in plan.releases)
    with pytest.raises(BudgetError, match="cap of"):
        make_policy(max_epsilon_per_run=100.0).check_plan(
            BudgetPlan(math.inf, 1e-5, math.inf, loud), "local", 1
        )


def test_a_plan_that_claims_less_than_it_costs_is_refused():
    plan = make_plan()
    with pytest.raises(BudgetError, match="epsilon"):
        make_policy().check_plan(dataclasses.replace(plan, epsilon=plan.epsilon * 0.9), "local", 1)


def test_only_allowed_releases_are_made():
    with pytest.raises(BudgetError, match="counts"):
        make_policy(allowed_releases=frozenset({"prototypes"})).check_plan(make_plan(), "local", 1)
    with pytest.raises(BudgetError, match="none"):
        make_policy(allowed_releases=frozenset()).check_plan(make_plan(), "local", 1)


def test_other_terms_are_checked():
    policy = make_policy(min_contributors=3)
    with pytest.raises(BudgetError, match="min_contributors 2"):
        policy.check_plan(make_plan(), "local", 2)
    with pytest.raises(BudgetError, match="insecure_reproducible_noise"):
        policy.check_plan(make_plan(), "local", 3, insecure_noise=True)
    with pytest.raises(BudgetError, match="trust 'central'"):
        policy.check_plan(make_plan(), "central", 3)


def test_distributed_noise_needs_a_pinned_and_large_enough_roster():
    policy = make_policy(roster=KEYS, authority="ff" * 32, trust="distributed")
    policy.check_plan(make_plan(), "distributed", 4, honest_clients=3)
    with pytest.raises(BudgetError, match="honest_clients None"):
        policy.check_plan(make_plan(), "distributed", 4)
    with pytest.raises(BudgetError, match=r"honest_clients \+ colluding_clients = 5"):
        policy.check_plan(make_plan(), "distributed", 4, honest_clients=3, colluding_clients=2)
    with pytest.raises(BudgetError, match="pin an authority"):
        dataclasses.replace(policy, authority=None).check_plan(
            make_plan(), "distributed", 4, honest_clients=3
        )
    with pytest.raises(BudgetError, match="at least 4 clients"):
        dataclasses.replace(policy, roster={}).check_plan(make_plan(), "distributed", 4, honest_clients=3)


def test_a_server_cannot_make_a_client_rely_on_more_than_its_policy_allows():
    local = make_policy(roster=KEYS, authority="ff" * 32)
    with pytest.raises(BudgetError, match="under 'local' only"):
        local.check_plan(make_plan(), "distributed", 4, honest_clients=3)
    wary = dataclasses.replace(local, trust="distributed", colluding_clients=2)
    wary.check_plan(make_plan(), "distributed", 4, honest_clients=2, colluding_clients=2)
    with pytest.raises(BudgetError, match="asks for at least 2"):
        wary.check_plan(make_plan(), "distributed", 4, honest_clients=3, colluding_clients=1)
    wary.check_plan(make_plan(), "local", 4)


def test_an_authority_that_is_a_client_is_refused():
    with pytest.raises(BudgetError, match="party of its own"):
        make_policy(roster=KEYS, authority=KEYS["client-1"])


def test_a_planned_dpsgd_release_is_priced_with_the_rest():
    sgd = PlannedRelease("classifier", 1.0, "dpsgd", 1, 0.1, 10, noise_multiplier=2.0)
    policy = make_policy(allowed_releases=frozenset({"classifier"}))
    with pytest.raises(BudgetError, match="epsilon"):
        policy.check_plan(BudgetPlan(0.01, 1e-5, 0.01, (sgd,)), "local", 1)


def test_only_allowed_networks_are_trained_and_only_on_allowed_data():
    policy = make_policy(allowed_architectures={"mlp", "dcgan"}, allowed_datasets={"folder"})
    policy.check_use("folder", ("mlp", "dcgan"))
    with pytest.raises(PolicyError, match="architecture 'cnn': the policy allows only: dcgan, mlp"):
        policy.check_use("folder", ("mlp", "cnn"))
    with pytest.raises(PolicyError, match="data set 'digits': the policy allows only: folder"):
        policy.check_use("digits", ())
    with pytest.raises(PolicyError, match="only: none"):
        make_policy(allowed_datasets=()).check_use("folder", ())
    make_policy().check_use("digits", ("anything",))


def test_a_file_of_version_2_asks_for_no_masks(tmp_path):
    path = tmp_path / "policy.toml"
    make_policy(roster=KEYS, pairwise_masks=True).save(path)
    assert ClientPolicy.load(path).pairwise_masks is True
    text = path.read_text()
    path.write_text(text.replace("schema_version = 3", "schema_version = 2"))
    with pytest.raises(PolicyError, match="unknown field 'pairwise_masks'"):
        ClientPolicy.load(path)
    old = text.replace("schema_version = 3", "schema_version = 2").replace("pairwise_masks = true\n", "")
    path.write_text(old)
    assert ClientPolicy.load(path).pairwise_masks is False
    path.write_text(text.replace("pairwise_masks = true", 'pairwise_masks = "yes"'))
    with pytest.raises(PolicyError, match="pairwise_masks: must be true or false"):
        ClientPolicy.load(path)


def test_masks_are_asked_for_where_there_is_a_sum():
    asking = make_policy(pairwise_masks=True)
    with pytest.raises(PolicyError, match="asks for masks"):
        asking.check_sums(encrypted=True, masked=False)
    asking.check_sums(encrypted=True, masked=True)
    asking.check_sums(encrypted=False, masked=False)
    make_policy().check_sums(encrypted=True, masked=False)


def test_a_file_of_version_1_allows_any_network_and_data_set_and_is_saved_as_version_3(tmp_path):
    path = tmp_path / "policy.toml"
    make_policy(roster=KEYS).save(path)
    text = path.read_text()
    old = text.replace("schema_version = 3", "schema_version = 1").replace("pairwise_masks = false\n", "")
    old = old.replace('allowed_architectures = ["*"]\n', "").replace('allowed_datasets = ["*"]\n', "")
    assert "*" not in old
    path.write_text(old)
    policy = ClientPolicy.load(path)
    assert policy.allowed_architectures == policy.allowed_datasets == {"*"}
    policy.save(path)
    assert path.read_text() == text
    path.write_text(old.replace("min_contributors", 'allowed_datasets = ["digits"]\nmin_contributors'))
    with pytest.raises(PolicyError, match="unknown field 'allowed_datasets'"):
        ClientPolicy.load(path)


def test_what_a_policy_refuses_is_told_from_a_budget_that_is_spent():
    """The one is the client's word and may be changed by it, the other is arithmetic."""
    with pytest.raises(PolicyError):
        make_policy(max_epsilon_per_run=0.1).check_plan(make_plan(), "local", 1)
    claimed = dataclasses.replace(make_plan(), epsilon=0.1)
    with pytest.raises(BudgetError) as caught:
        make_policy().check_plan(claimed, "local", 1)
    assert not isinstance(caught.value, PolicyError)
