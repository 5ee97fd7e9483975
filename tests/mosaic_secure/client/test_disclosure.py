"""What a client is told before a run is what then leaves it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto

from cli.disclosed import show_disclosure
from mosaic_secure.client.disclosure import Disclosure, disclose, disclose_at
from mosaic_secure.client.own_data import Places
from mosaic_secure.client.session import ClientHome
from mosaic_secure.client.withdrawal import withdraw
from mosaic_secure.config import load_config
from mosaic_secure.engine.parties import provision
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.codec import decode, field_bytes
from mosaic_secure.protocol.fields import field_specs
from mosaic_secure.protocol.messages import CODES, HelloReply
from privacy.accounting import compose_epsilon
from privacy.ledger_check import verify

from ..disclosures import assert_exact, disclosed
from ..tiny import CLIENTS, tiny_config, tiny_train


@pytest.mark.parametrize("kind", ["finished", "distributed"])
def test_every_message_of_a_run_was_told_of_field_by_field_and_byte_by_byte(request, kind: str):
    ended = request.getfixturevalue(kind)
    for client in CLIENTS:
        assert_exact(ended.path, ended.ledgers, client)


def test_so_is_every_message_that_masks_add(tmp_path: Path):
    masked = {"privacy.pairwise_masks": True, "privacy.min_contributors": 3}
    tiny_train(tmp_path, **masked)
    for client in CLIENTS:
        assert_exact(tmp_path / "run", tmp_path / "ledgers", client)
    told = disclosed(tmp_path / "run", tmp_path / "ledgers", CLIENTS[0]).messages
    assert {"MaskSharesReply", "MaskViewReply", "UnmaskReply"} <= {item.message for item in told}


def test_the_greeting_is_told_of_too(finished):
    """It comes before the log of messages begins, so it is read off the wire."""
    (data,) = [p.data for p in finished.wire.passed if p.party == CLIENTS[0] and p.source == "client"][:1]
    hello = decode(HelloReply, message_from_proto(MessageProto.FromString(data)).content)
    told = disclosed(finished.path, finished.ledgers, CLIENTS[0]).messages[0]
    sizes = {spec.name: len(field_bytes(getattr(hello, spec.name))) for spec in field_specs(HelloReply)}
    assert told.message == "HelloReply" and {item.name: item.bytes for item in told.fields} == sizes
    assert not told.is_bound


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> ClientHome:
    """The home of the first of three clients, and nothing enrolled."""
    federation = provision(tiny_config(), tmp_path_factory.mktemp("parties"))
    return ClientHome(federation.home / CLIENTS[0], CLIENTS[0])


@pytest.fixture(scope="module")
def found(home: ClientHome) -> Disclosure:
    return disclose(home.policy, build_plan(tiny_config()), 0)


def test_each_release_has_its_mechanism_and_the_whole_its_epsilon(found: Disclosure):
    plan = build_plan(tiny_config())
    assert found.accepted and (found.epsilon, found.delta) == (plan.budget.epsilon, plan.budget.delta)
    told = {item.release: item for item in found.mechanisms}
    assert list(told) == [release.name for release in plan.budget.releases]
    for release in plan.budget.releases:
        item = told[release.name]
        assert item.epsilon == compose_epsilon([release.event], plan.budget.delta) < found.epsilon
        assert (item.noise_multiplier, item.rounds) == (release.noise_multiplier, release.rounds)
        assert (item.sample_rate, item.steps) == (release.sample_rate, release.steps)
    assert told["centre"].clip == told["counts"].clip == 1.0 and told["centre"].encrypted
    assert told["moments"].clip == plan.round("moments-0").mechanism.sensitivity
    assert told["classifier"].clip == tiny_config().classifier.max_grad_norm
    carried = [field.release for message in found.messages for field in message.fields if field.release]
    assert sorted(carried) == sorted(told)  # each is made once, and in one field
    fields = [field for message in found.messages for field in message.fields if field.bytes]
    dp = {field.name for field in fields if field.field_class in ("dp_release", "ciphertext")}
    assert dp == {"counts", "contribution", "classifier", "generator"}


def test_shared_noise_is_told_as_the_share_that_this_client_adds(home: ClientHome):
    plan = build_plan(tiny_config(privacy__trust="distributed"))
    told = {item.release: item for item in disclose(home.policy, plan, 0).mechanisms}
    share = math.sqrt(plan.config.honest_clients)
    assert share > 1
    assert told["centre"].own_noise_multiplier == pytest.approx(told["centre"].noise_multiplier / share)
    assert told["counts"].own_noise_multiplier == told["counts"].noise_multiplier


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"max_epsilon_per_run": 1.0}, "above the policy's cap of 1"),
        ({"max_epsilon_lifetime": 1.0}, "budget already spent"),
        ({"max_delta_lifetime": 1e-9}, "has used delta 0"),
        ({"allowed_releases": frozenset({"counts"})}, "release 'centre'"),
        ({"allowed_architectures": frozenset({"mlp"})}, "architecture 'dcgan'"),
        ({"allowed_datasets": frozenset({"folder"})}, "data set 'digits'"),
        ({"min_contributors": 3}, "min_contributors 2"),
        ({"visibility": "private"}, "data.visibility"),
        ({"population": "others"}, "data.population"),
    ],
)
def test_the_verdict_is_the_line_with_which_the_client_would_refuse(home: ClientHome, rule, line: str):
    refused = disclose(replace(home.policy, **rule), build_plan(tiny_config()), 0)
    assert not refused.accepted and line in refused.refusal


def test_a_roster_that_the_server_tells_is_compared(home: ClientHome):
    plan = build_plan(tiny_config())
    assert "roster" in disclose(home.policy, plan, 0, roster={"client-0": "11" * 32}).refusal


def test_what_earlier_runs_spent_is_in_the_account(finished):
    """A second run of the same plan doubles what the ledger shows."""
    home = ClientHome(finished.ledgers / "digits-3" / CLIENTS[0], CLIENTS[0])
    report, plan = verify(home.path), build_plan(tiny_config())
    spent = disclose_at(home, plan, 0).spending
    assert spent.epsilon_before == report.lifetime_epsilon == pytest.approx(plan.budget.epsilon)
    assert spent.epsilon_after == pytest.approx(2 * plan.budget.epsilon)
    assert spent.delta_after == pytest.approx(2 * plan.budget.delta)
    known = json.loads((finished.path / "manifest.json").read_bytes())["run_id"]
    assert disclose_at(home, plan, 0, run_id=known).spending.epsilon_before == 0  # it is this very run
    tight = replace(home.policy, max_epsilon_lifetime=1.5 * plan.budget.epsilon)
    assert "budget already spent" in disclose(tight, plan, 0, report).refusal


def test_a_home_that_has_withdrawn_or_has_no_records_refuses(tmp_path: Path):
    place = provision(tiny_config(), tmp_path).home / CLIENTS[1]
    home, plan = ClientHome(place, CLIENTS[1]), build_plan(tiny_config())
    assert disclose_at(home, plan, 1).accepted
    assert not (place / "ledger.jsonl").exists()
    own = load_config(
        "folder",
        {
            "data.clients_from": "own",
            "data.visibility": "public",
            "data.class_names": "cat,dog",
            "data.declared_records": 20,
            "data.image_size": 8,
            "data.channels": 1,
            "clients.architectures": "mlp",
            "clients.count": 3,
            "prototypes.encoder": "fourier",
        },
    )
    none = disclose_at(home, build_plan(own), 1, places=Places(deployed=True))
    assert "--data" in none.refusal
    withdraw(place)
    assert "withdrawn from all runs" in disclose_at(home, plan, 1).refusal


def test_the_page_and_the_object_say_the_same(found: Disclosure, capsys: pytest.CaptureFixture[str]):
    show_disclosure(found, json=True)
    *page, last = capsys.readouterr().out.rstrip("\n").split("\n")
    record, text = json.loads(last), "\n".join(page)
    assert record["accepted"] is True and record["refusal"] is None
    assert record["bytes"] == found.bytes == sum(message["bytes"] for message in record["messages"])
    assert set(record["codes"]) == set(CODES) - {"ok"}
    assert "this client would accept the run" in text and f"at most {found.bytes} bytes" in text
    for message in found.messages:
        assert message.stage in text and message.message in text
    for item in found.mechanisms:
        assert any(line.startswith(item.release) for line in page)
    for line in found.never:
        assert line in text
    refused = replace(found, refusal="release 'centre': the policy allows only: counts")
    show_disclosure(refused)
    assert "refused: release 'centre'" in capsys.readouterr().out
