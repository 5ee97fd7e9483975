"""What a client answers about masks to a server that does not keep to the protocol, by its own ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_secure.client import answers, masking
from mosaic_secure.client.authority import AuthorityHome
from mosaic_secure.client.own_data import Places
from mosaic_secure.client.session import ClientHome, Session
from mosaic_secure.engine.parties import provision
from mosaic_secure.errors import UserError
from mosaic_secure.masking import mask_terms
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.messages import (
    AuthorityOpen,
    EnrolRequest,
    MaskSharesRequest,
    MaskViewRequest,
    PrototypeRequest,
    SealRequest,
    UnmaskRequest,
)
from privacy.canonical import canonical_json
from privacy.errors import AggregationError, PrivacyError

from ..tiny import tiny_config

RUN = "run-1"
ROUND = "centre-0"
ALL = [f"client-{index}" for index in range(4)]


@dataclass
class Parties:
    """Four clients, three of which are needed, and a server that asks what it likes."""

    place: Path
    certificate: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        changes = {"privacy__pairwise_masks": True, "clients__count": 4, "privacy__min_contributors": 3}
        config = tiny_config(privacy__epsilon="inf", **changes)
        self.plan, self.federation = build_plan(config), provision(config, self.place)
        self.roster = {name: key for name, key in self.federation.roster.items() if name != "authority"}
        self.enrol = EnrolRequest(
            run_id=RUN,
            config_json=canonical_json(self.plan.config.to_dict()).decode(),
            plan_json=canonical_json(self.plan.budget.to_dict()).decode(),
            roster_json=canonical_json(self.roster).decode(),
        )
        replies = {name: answers.enrolled(self.home(name), self.enrol, Places()) for name in ALL}
        request = MaskSharesRequest(
            run_id=RUN,
            keys_json=[reply.mask_keys_json for reply in replies.values()],
            signatures=[reply.mask_keys_signature for reply in replies.values()],
        )
        dealt = {name: masking.dealt(self.session(name), request) for name in ALL}
        signed = [
            masking.viewed(
                self.session(name),
                MaskViewRequest(run_id=RUN, members=ALL, boxes=[dealt[sender].boxes[at] for sender in ALL]),
            ).signature
            for at, name in enumerate(ALL)
        ]
        self.certificate = {"view_signers": ALL, "view_signatures": signed}
        terms = AuthorityOpen(
            run_id=RUN,
            agreement=self.plan.agreement,
            rounds_json=canonical_json(self.plan.round_lengths).decode(),
            min_contributors=3,
            roster_json=canonical_json(self.roster).decode(),
            parameters_json=canonical_json(self.plan.ckks.to_dict()).decode(),
        )
        self.key = AuthorityHome(self.federation.home / "authority").open(terms)

    def home(self, name: str) -> ClientHome:
        return ClientHome(self.federation.home / name, name)

    def session(self, name: str) -> Session:
        """A fresh one for each message, as in a run."""
        return Session(self.home(name), RUN, ALL.index(name))

    def contribute(self, name: str, round_id: str = ROUND, **changes: Any) -> bytes:
        asked = {
            "run_id": RUN,
            "round_id": round_id,
            "key_id": self.key.key_id,
            "public_context": self.key.public_context,
            "context_signature": self.key.signature,
            **self.certificate,
        }
        return answers.prototypes(self.session(name), PrototypeRequest(**{**asked, **changes})).contribution

    def unmask(self, name: str, contributors: list[str], **changes: Any) -> list[bytes]:
        asked = {"run_id": RUN, "round_id": ROUND, "contributors": contributors, **self.certificate}
        return masking.unmasked(self.session(name), UnmaskRequest(**{**asked, **changes})).shares

    def charged(self, name: str) -> int:
        with self.home(name).ledger() as ledger:
            return sum(ledger.run(RUN).releases.values())


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    return Parties(tmp_path)


def test_a_contribution_is_made_once_and_sent_again_as_it_was(parties):
    first = parties.contribute("client-0")
    assert parties.contribute("client-0") == first
    parties.unmask("client-0", ALL)
    assert parties.contribute("client-0") == first
    assert parties.charged("client-0") == 2  # the sum, and the counts


def test_a_contribution_whose_bytes_are_lost_is_not_masked_anew(parties):
    parties.contribute("client-0")
    (stored,) = (parties.home("client-0").path / "releases" / RUN).glob("centre-0.bin")
    stored.unlink()
    with pytest.raises(PrivacyError, match="would be a new release"):
        parties.contribute("client-0")


def test_a_client_that_helped_without_contributing_contributes_nothing_more(parties):
    parties.unmask("client-0", ALL[1:])
    with pytest.raises(AggregationError, match="are settled"):
        parties.contribute("client-0")
    assert parties.charged("client-0") == 0
    assert parties.contribute("client-0", "moments-0", broadcast=_centre(parties))


def _centre(parties: Parties) -> dict[str, np.ndarray]:
    return {"centre": np.zeros(parties.plan.code_dim)}


def test_a_client_knows_by_its_own_ledger_whether_it_contributed(parties):
    parties.contribute("client-0")
    with pytest.raises(AggregationError, match="whether this client contributed"):
        parties.unmask("client-0", ALL[1:])
    with pytest.raises(AggregationError, match="whether this client contributed"):
        parties.unmask("client-1", ALL)
    assert len(parties.unmask("client-0", ALL)) == 4


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (ALL, ALL[:3], "other contributors"),
        (ALL[:3], ALL, "other contributors"),
        (ALL[:2], None, "at least 3"),
    ],
)
def test_a_client_answers_for_one_set_that_is_large_enough(parties, first, second, named):
    parties.contribute("client-0")
    if second is not None:
        given = parties.unmask("client-0", first)
        assert parties.unmask("client-0", first) == given
    with pytest.raises(AggregationError, match=named):
        parties.unmask("client-0", second or first)


def test_nothing_is_contributed_or_revealed_before_enough_clients_signed_the_view(parties):
    for few in (
        {"view_signers": [], "view_signatures": []},
        {name: given[:2] for name, given in parties.certificate.items()},
        {"view_signers": ALL, "view_signatures": [bytes(64)] * 4},
    ):
        with pytest.raises(AggregationError, match="signed who takes part"):
            parties.contribute("client-0", **few)
        with pytest.raises(AggregationError, match="signed who takes part"):
            parties.unmask("client-0", ALL, **few)
    assert parties.charged("client-0") == 0


def test_enrolling_again_gives_the_same_keys_and_none_once_the_run_is_over(parties):
    first = answers.enrolled(parties.home("client-0"), parties.enrol, Places())
    again = answers.enrolled(parties.home("client-0"), parties.enrol, Places())
    assert first.mask_keys_json and first.mask_keys_json == again.mask_keys_json
    parties.contribute("client-0")
    answers.sealed(parties.session("client-0"), SealRequest(run_id=RUN, final=True))
    assert not list((parties.home("client-0").path / "masks").glob("*/*"))
    assert answers.enrolled(parties.home("client-0"), parties.enrol, Places()).mask_keys_json == ""
    with pytest.raises(PrivacyError):
        parties.unmask("client-0", ALL)
    with pytest.raises(PrivacyError):
        parties.contribute("client-0")


def test_a_roster_of_another_size_than_the_plan_gets_no_masks(tmp_path):
    """The thresholds rest on the number of clients; a fifth that the plan does not count would shift them."""
    parties = Parties(tmp_path)
    path = parties.home("client-0").path / "policy.toml"
    path.write_text(path.read_text() + f'"client-9" = "{"07" * 32}"\n')
    with pytest.raises(PrivacyError, match="roster"):
        parties.session("client-0")
    five = {f"client-{index}": bytes([index]) * 32 for index in range(5)}
    with pytest.raises(UserError, match=r"clients\.count = 4, but the roster has 5"):
        mask_terms(parties.plan, RUN, five)


def test_a_run_without_masks_answers_nothing_about_them(tmp_path):
    config = tiny_config(privacy__epsilon="inf")
    plan, federation = build_plan(config), provision(config, tmp_path)
    roster = {name: key for name, key in federation.roster.items() if name != "authority"}
    home = ClientHome(federation.home / "client-0", "client-0")
    request = EnrolRequest(
        run_id=RUN,
        config_json=canonical_json(plan.config.to_dict()).decode(),
        plan_json=canonical_json(plan.budget.to_dict()).decode(),
        roster_json=json.dumps(roster),
    )
    assert answers.enrolled(home, request, Places()).mask_keys_json == ""
    with pytest.raises(UserError, match="pairwise_masks = false"):
        masking.dealt(Session(home, RUN, 0), MaskSharesRequest(run_id=RUN, keys_json=[], signatures=[]))
