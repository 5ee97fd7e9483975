"""What a client answers to a server that does not keep to the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_secure.client.answers import prototypes, sealed, trained
from mosaic_secure.client.authority import AuthorityHome
from mosaic_secure.client.session import ClientHome, Session, enrol
from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.engine.parties import Federation, provision
from mosaic_secure.errors import UserError
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.protocol.codec import field_bytes
from mosaic_secure.protocol.messages import AuthorityOpen, LocalTrainingRequest, PrototypeRequest, SealRequest
from privacy.canonical import canonical_json
from privacy.errors import AggregationError, LedgerError, PolicyError, PrivacyError

from ..tiny import SAMPLED, TINY, tiny_config

RUN = "run-1"


@dataclass(frozen=True)
class Parties:
    """A federation on the disk, the plan that its clients were told, and a server that may lie."""

    federation: Federation
    plan: RunPlan

    def home(self, index: int = 0) -> ClientHome:
        return ClientHome(self.federation.home / f"client-{index}", f"client-{index}")

    def enrol(self, index: int = 0, plan: RunPlan | None = None) -> Session:
        plan = plan or self.plan
        texts = [canonical_json(part.to_dict()).decode() for part in (plan.config, plan.budget)]
        clients = {name: key for name, key in self.federation.roster.items() if name != "authority"}
        enrol(self.home(index), RUN, *texts, clients)
        return Session(self.home(index), RUN, index)

    def key(self, **lies: Any) -> Any:
        clients = {name: key for name, key in self.federation.roster.items() if name != "authority"}
        told = {
            "run_id": RUN,
            "agreement": self.plan.agreement,
            "rounds_json": canonical_json(self.plan.round_lengths).decode(),
            "min_contributors": self.plan.config.min_contributors,
            "roster_json": canonical_json(clients).decode(),
            "parameters_json": canonical_json(self.plan.ckks.to_dict()).decode(),
        }
        return AuthorityHome(self.federation.home / "authority").open(AuthorityOpen(**{**told, **lies}))

    def request(self, key: Any, round_id: str | None = None, **broadcast: np.ndarray) -> PrototypeRequest:
        return PrototypeRequest(
            run_id=RUN,
            round_id=round_id or self.plan.rounds[0].round_id,
            key_id=key.key_id,
            public_context=key.public_context,
            context_signature=key.signature,
            broadcast=broadcast,
        )


def parties(place: Path, config: RunConfig) -> Parties:
    return Parties(provision(config, place), build_plan(config))


@pytest.fixture
def shared(tmp_path: Path) -> Parties:
    """Three clients under distributed trust with gradient rounds."""
    changes = {"privacy__trust": "distributed", "prototypes__rounds": 1, "prototypes__gradient_share": 0.2}
    return parties(tmp_path, tiny_config(**changes))


def charged(session: Session) -> int:
    with session.home.ledger() as ledger:
        return sum(ledger.run(RUN).releases.values())


def test_a_client_contributes_under_a_key_on_the_terms_it_was_told(shared):
    session = shared.enrol()
    reply = prototypes(session, shared.request(shared.key()))
    assert reply.code == "ok" and reply.contribution and reply.counts["counts"].shape == (10,)
    assert charged(session) == 2  # the sum and the counts


def test_a_run_that_the_authority_holds_open_on_other_terms_gets_no_contribution(shared):
    lies = (
        {"min_contributors": 2},  # fewer than the noise is shared among
        {"rounds_json": canonical_json({**shared.plan.round_lengths, "again-0": 5}).decode()},
        {"agreement": "0" * 64},
    )
    for number, lie in enumerate(lies):
        place = parties(shared.federation.home.parent / str(number), shared.plan.config)
        session = place.enrol()
        with pytest.raises(AggregationError, match="on these terms"):
            prototypes(session, place.request(place.key(**lie)))
        assert charged(session) == 0


def test_clients_that_were_told_different_plans_never_add_up(shared):
    """A server could tell all but one client to add less noise, and that one to rely on theirs."""
    config = tiny_config(
        privacy__trust="distributed",
        prototypes__rounds=1,
        prototypes__gradient_share=0.2,
        privacy__epsilon=50.0,
    )
    quiet = build_plan(config)
    assert quiet.rounds[0].mechanism.own_std < shared.plan.rounds[0].mechanism.own_std / 2
    key = shared.key()
    assert prototypes(shared.enrol(0), shared.request(key)).code == "ok"
    with pytest.raises(AggregationError, match="on these terms"):
        prototypes(shared.enrol(1, quiet), shared.request(key))


@pytest.mark.parametrize("number", [1e300, np.nan, np.inf])
def test_a_broadcast_that_would_overflow_is_refused_before_it_is_charged(shared, number):
    session, plan = shared.enrol(), shared.plan
    weights = np.full((plan.code_dim, plan.num_classes), number)
    centre = np.zeros(plan.code_dim)
    request = shared.request(shared.key(), "gradient-0", centre=centre, weights=weights)
    with pytest.raises(PrivacyError, match="weights"):
        prototypes(session, request)
    assert charged(session) == 0


@pytest.mark.parametrize("shape, number", [((3, 3), 1.0), (None, np.nan), (None, np.inf)])
def test_a_metric_that_is_none_is_refused_before_it_is_charged(shared, shape, number):
    session, plan = shared.enrol(), shared.plan
    dim = plan.code_dim
    request = shared.request(
        shared.key(),
        "gradient-0",
        centre=np.zeros(dim),
        weights=np.zeros((dim, plan.num_classes)),
        metric=np.full(shape or (dim, dim), number),
    )
    with pytest.raises(UserError, match="broadcast"):
        prototypes(session, request)
    assert charged(session) == 0


@pytest.mark.parametrize(
    "round_id, broadcast",
    [
        ("image_centre-0", {"centre": np.zeros(16)}),
        ("image_means-0", {}),
        ("image_means-0", {"centre": np.full(16, np.nan)}),
        ("image_moments-0", {"means": np.zeros((9, 16))}),
        ("image_class_moments-0", {"means": np.zeros((10, 16)), "basis": np.zeros((16, 7))}),
        ("image_class_moments-0", {"means": np.zeros((10, 16)), "basis": np.full((16, 6), np.inf)}),
    ],
)
def test_a_broadcast_that_does_not_fit_a_round_of_images_is_refused_before_it_is_charged(
    tmp_path, round_id, broadcast
):
    place = parties(tmp_path, load_config("digits", {**TINY, **SAMPLED}))
    session = place.enrol()
    with pytest.raises(UserError, match="broadcast"):
        prototypes(session, place.request(place.key(), round_id, **broadcast))
    assert charged(session) == 0


@pytest.mark.parametrize(
    "moments",
    [
        {"pixel_means": np.zeros((10, 16))},
        {"pixel_means": np.zeros((10, 16)), "pixel_seconds": np.full((10, 16, 16), np.nan)},
        {"pixel_means": np.zeros((9, 16)), "pixel_seconds": np.zeros((9, 16, 16))},
    ],
)
def test_moments_that_would_break_the_generator_are_refused_before_anything_is_charged(shared, moments):
    session = shared.enrol()
    with pytest.raises(UserError, match="broadcast"):
        trained(session, LocalTrainingRequest(run_id=RUN, round=0, broadcast=moments))
    assert charged(session) == 0


def test_a_server_does_not_learn_that_the_records_have_changed_since(ward, tmp_path):
    place = parties(tmp_path / "ledgers", private_config(ward))
    first, again = place.request(place.key()), LocalTrainingRequest(run_id=RUN, round=0)
    made = prototypes(place.enrol(), first), trained(place.enrol(), again)
    (ward / "site-0" / "cat" / "0.png").unlink()
    later = prototypes(place.enrol(), first), trained(place.enrol(), again)
    assert later[0].contribution == made[0].contribution
    for kind in ("classifier", "generator"):
        assert field_bytes(getattr(made[1], kind)) == field_bytes(getattr(later[1], kind))


def test_nothing_of_the_records_is_kept_for_a_run_that_is_over(shared):
    session, request = shared.enrol(), shared.request(shared.key())
    prototypes(session, request)
    sealed(shared.enrol(), SealRequest(run_id=RUN, final=True))
    for ask, asked in ((prototypes, request), (trained, LocalTrainingRequest(run_id=RUN, round=0))):
        with pytest.raises(LedgerError, match="sealed"):
            ask(Session(shared.home(), RUN, 0), asked)
    assert not list((shared.home().path / "cache").glob("*/*"))


def private_config(path: Path, **changes: Any) -> RunConfig:
    declared = {
        "data__dataset": "folder",
        "data__path": str(path),
        "data__clients_from": "subfolder",
        "data__class_names": "cat,dog",
        "data__image_size": 8,
        "data__channels": 1,
        "data__declared_records": 20,
        "data__population": "ward",
        "data__limit": "none",
        "partition__kind": "given",
        "privacy__delta": 1e-5,
    }
    return tiny_config(**{**declared, **changes})


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Images of three clients; the first has four records, two of each class."""
    from PIL import Image

    for site, each in (("site-0", 2), ("site-1", 8), ("site-2", 8)):
        for name, grey in (("cat", 40), ("dog", 200)):
            folder = tmp_path / "ward" / site / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.new("L", (8, 8), grey + number).save(folder / f"{number}.png")
    return tmp_path / "ward"


def test_the_answer_of_a_client_does_not_tell_how_many_records_it_has(ward, tmp_path):
    """A server could lower min_records from run to run until a client stops refusing."""
    place = parties(tmp_path / "ledgers", private_config(ward, partition__min_records=5))
    key = place.key()
    replies = [prototypes(place.enrol(index), place.request(key)) for index in range(3)]
    assert [reply.code for reply in replies] == ["ok"] * 3
    assert len({len(reply.contribution) for reply in replies}) == 1


def test_a_small_client_is_told_by_itself_before_anything_starts(ward, tmp_path):
    place = parties(tmp_path / "ledgers", private_config(ward, partition__min_records=5))
    with pytest.raises(UserError) as caught:
        place.federation.check(RUN, place.plan)
    assert "client-0" in str(caught.value) and "4 records" not in str(caught.value)
    assert "has 4 records" in (place.home(0).path / "failures.log").read_text()
    assert not (place.home(1).path / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        ({"data__visibility": "public", "data__declared_records": "none"}, "data.visibility"),
        ({"data__population": "another-ward"}, "data.population"),
    ],
)
def test_a_client_takes_no_plan_for_data_that_its_policy_is_not_about(ward, tmp_path, lie, named):
    place = parties(tmp_path / "ledgers", private_config(ward))
    with pytest.raises(PolicyError, match=named):
        place.enrol(0, build_plan(private_config(ward, **lie)))


def test_the_server_does_not_say_where_a_clients_data_lie(shared):
    session = shared.enrol(0, RunPlan.derive(elsewhere(shared.plan.config), shared.plan.budget))
    assert session.config.data.root is None
    assert session.plan.config_hash == shared.plan.config_hash


def elsewhere(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"root": "/of/the/server"})})


@pytest.mark.parametrize("name", ["../client-1/runs/run-1", "./run-1", "run-1/../run-1", ""])
def test_the_name_of_a_run_cannot_lead_elsewhere(shared, name):
    shared.enrol()
    with pytest.raises(PrivacyError, match="run id"):
        Session(shared.home(), name, 0)
