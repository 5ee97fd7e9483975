"""A client's policy is asked at every request, as it is then, and not only when a run begins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mosaic_secure.client import answers
from mosaic_secure.client.rules import client_index, trained_architectures
from mosaic_secure.client.session import POLICY
from mosaic_secure.config import load_config
from mosaic_secure.engine.parties import provision
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.messages import LocalTrainingRequest, SealRequest
from privacy.errors import PolicyError
from privacy.policy import ClientPolicy

from ..tiny import FINE_TUNED, tiny_config
from .answering import RUN, Client, client

SEAL = SealRequest(run_id=RUN, final=False)


@pytest.fixture(scope="module")
def plan():
    return build_plan(tiny_config())


@pytest.fixture
def made(tmp_path: Path, plan) -> Client:
    """A client that has enrolled in the tiny run."""
    first = client(tmp_path, tiny_config())
    assert first.enrol().code == "ok"
    return first


def change(made: Client, **rules: object) -> None:
    path = made.home.path / POLICY
    replace(ClientPolicy.load(path), **rules).save(path)


def test_what_a_client_trains_is_what_it_is_asked_for():
    config = tiny_config(**{**FINE_TUNED, "clients.architectures": "mlp,cnn"})
    assert trained_architectures(config, 0) == ("mlp", "dcgan", "prototype_head")
    assert trained_architectures(config, 1) == ("cnn", "dcgan", "prototype_head")
    assert trained_architectures(tiny_config(), 0) == ("mlp", "dcgan")
    alone = load_config("digits", {"method": "fedavg"})
    assert trained_architectures(alone, 0) == (alone.global_model.architecture,)
    with pytest.raises(PolicyError, match=r"clients.count = 3: client-3 is no client"):
        client_index(tiny_config(), "client-3")


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"allowed_datasets": frozenset({"folder"})}, "data set 'digits'"),
        ({"allowed_architectures": frozenset({"mlp"})}, "architecture 'dcgan'"),
        ({"allowed_architectures": frozenset({"cnn", "dcgan"})}, "architecture 'mlp'"),
        ({"max_epsilon_per_run": 1.0}, "cap of 1"),
        ({"roster": {"client-0": "11" * 32}}, "roster"),
        ({"pairwise_masks": True}, "pairwise_masks false"),
    ],
)
def test_a_plan_that_the_policy_refuses_gets_one_word_and_its_owner_the_line(tmp_path, rule, line):
    first = client(tmp_path, tiny_config())
    change(first, **rule)
    answer = first.enrol()
    assert (answer.code, answer.message.accepted, answer.message.ledger_sequence) == ("policy", False, 0)
    assert line in (first.home.path / "failures.log").read_text()
    assert not (first.home.path / "runs").exists()
    assert first.ask(SEAL).code == "ledger"  # it is not enrolled


def test_a_client_that_asks_for_masks_takes_part_where_there_are_some_or_nothing_to_mask(tmp_path):
    masked = client(tmp_path / "masked", tiny_config(**{"privacy.pairwise_masks": True}))
    unmasked = client(tmp_path / "none", tiny_config(**{"method": "fedavg", "fine_tune.rounds": 1}))
    for asking in (masked, unmasked):
        change(asking, pairwise_masks=True)
        assert asking.enrol().code == "ok"


def test_networks_that_others_train_are_no_matter_of_this_client(tmp_path):
    first = client(tmp_path, tiny_config(**{"clients.architectures": "mlp,cnn"}))
    change(first, allowed_architectures=frozenset({"mlp", "dcgan"}))
    assert first.enrol().code == "ok"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"max_epsilon_per_run": 1.0}, "policy"),
        ({"max_epsilon_lifetime": 1.0}, "budget"),
        ({"max_delta_lifetime": 1e-9}, "budget"),
        ({"allowed_releases": frozenset({"counts", "centre", "moments", "classifier"})}, "policy"),
        ({"roster": {"client-0": "11" * 32, "client-1": "22" * 32, "client-2": "33" * 32}}, "policy"),
        ({"authority": "44" * 32}, "policy"),
        ({"authority": None}, "policy"),
        ({"min_contributors": 3}, "policy"),
        ({"visibility": "private"}, "policy"),
        ({"allowed_architectures": frozenset({"dcgan"})}, "policy"),
        ({"allowed_datasets": frozenset({"folder"})}, "policy"),
        ({"pairwise_masks": True}, "policy"),
    ],
)
def test_a_policy_that_became_stricter_stops_a_run_that_was_enrolled(made: Client, rule, code: str):
    assert made.ask(SEAL).code == "ok"
    lenient = ClientPolicy.load(made.home.path / POLICY)
    change(made, **rule)
    for request in made.requests()[1:]:
        assert made.ask(request).code == code, type(request).__name__
    assert made.charged == 0
    lenient.save(made.home.path / POLICY)
    assert made.ask(SEAL).code == "ok"


def test_terms_of_trust_are_asked_for_again_too(tmp_path):
    first = client(tmp_path, tiny_config(privacy__trust="distributed"))
    assert first.enrol().code == "ok"
    for rule in ({"trust": "local"}, {"colluding_clients": 2}):
        kept = ClientPolicy.load(first.home.path / POLICY)
        change(first, **rule)
        assert first.ask(SEAL).code == "policy"
        kept.save(first.home.path / POLICY)
    assert first.ask(SEAL).code == "ok"


def test_the_epsilon_of_a_plan_is_composed_at_enrolment_and_not_for_every_request(made: Client, monkeypatch):
    def compose(*_: object) -> None:
        pytest.fail("composed again")

    monkeypatch.setattr("privacy.budget.compose_epsilon", compose)
    assert made.ask(SEAL).code == "ok"


def test_an_answer_is_held_back_if_the_policy_becomes_stricter_while_it_is_made(made: Client, monkeypatch):
    real = answers.trained

    def slow(session, request):
        reply = real(session, request)
        change(made, allowed_datasets=frozenset())
        return reply

    monkeypatch.setattr(answers, "trained", slow)
    monkeypatch.setattr("mosaic_secure.client.app.answers.trained", slow)
    answer = made.ask(LocalTrainingRequest(run_id=RUN, round=0))
    assert answer.code == "policy" and not answer.message.classifier
    assert made.charged == 3  # made and paid for, and kept at home


def test_another_plan_under_the_same_run_is_refused(made: Client):
    before = (made.home.path / "runs" / f"{RUN}.json").read_bytes()
    for config in (tiny_config(classifier__learning_rate=0.25), tiny_config(privacy__epsilon=3.0)):
        assert made.enrol(build_plan(config)).code == "ledger"
    dearer = made.plan.budget.to_dict() | {"target_epsilon": 4.0, "epsilon": 4.0}
    enrolment = made.enrolment()
    changed = type(enrolment)(**{**vars(enrolment), "plan_json": json.dumps(dearer)})
    assert made.ask(changed).code == "ledger"
    assert (made.home.path / "runs" / f"{RUN}.json").read_bytes() == before
    assert made.enrol().code == "ok" and made.ask(SEAL).code == "ok"


def test_a_policy_that_cannot_be_read_refuses_everything(made: Client):
    (made.home.path / POLICY).write_text("schema_version = 2\n")
    for request in made.requests():
        assert made.ask(request).code == "policy"


def test_simulated_parties_pin_what_their_private_configuration_names(tmp_path):
    private = {
        "data.path": "/of/nobody",
        "data.class_names": "cat,dog",
        "data.image_size": 8,
        "data.channels": 1,
        "data.declared_records": 100,
        "data.population": "ward",
        "clients.count": 3,
        "clients.architectures": "mlp,cnn",
    }
    federation = provision(load_config("folder", private), tmp_path)
    policy = ClientPolicy.load(federation.home / "client-1" / POLICY)
    assert policy.allowed_datasets == {"folder"}
    assert policy.allowed_architectures == {"mlp", "cnn", "dcgan", "prototype_head"}
    public = ClientPolicy.load(provision(tiny_config(), tmp_path).home / "client-1" / POLICY)
    assert public.allowed_datasets == public.allowed_architectures == {"*"}
