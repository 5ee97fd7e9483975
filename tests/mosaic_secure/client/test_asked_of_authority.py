"""What the key authority answers, at its node, to a server that wants to see more than sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.client.authority import AuthorityHome
from mosaic_secure.masking import magnitude_bound
from mosaic_secure.protocol.messages import (
    AuthorityKey,
    AuthorityOpen,
    DecryptReply,
    DecryptRequest,
    PrototypeRequest,
)
from privacy.canonical import canonical_json
from privacy.identity import SigningKey
from privacy.secagg.contribution import ContributionHeader, seal_contribution
from privacy.secagg.packing import encrypt_integers

from ..tiny import tiny_config
from .answering import RUN, Answer, Client, answer, client

FEWEST = 3


@dataclass(frozen=True)
class Server:
    """A server that asks what it likes, and four honest clients that contributed to the first round."""

    first: Client
    node: dict[str, Any]
    key: AuthorityKey
    batch: list[bytes]

    @property
    def round_id(self) -> str:
        return self.first.plan.rounds[0].round_id

    def decrypt(
        self, brought: Sequence[bytes], names: Sequence[str] | None = None, **changes: Any
    ) -> DecryptReply:
        asked = DecryptRequest(
            run_id=RUN,
            round_id=self.round_id,
            magnitude_bound=magnitude_bound(self.first.plan, self.first.plan.rounds[0]),
            contributions=[sha256(data).hexdigest() for data in brought] if names is None else list(names),
            brought=list(brought),
        )
        return answer(self.node, replace(asked, **changes)).message

    def open(self, **lies: Any) -> Answer:
        return answer(self.node, replace(terms(self.first), **lies))


def terms(first: Client) -> AuthorityOpen:
    """What an honest server tells the authority of the run."""
    return AuthorityOpen(
        run_id=RUN,
        agreement=first.plan.agreement,
        rounds_json=canonical_json(first.plan.round_lengths).decode(),
        min_contributors=FEWEST,
        roster_json=canonical_json(first.roster).decode(),
        parameters_json=canonical_json(first.plan.ckks.to_dict()).decode(),
    )


@pytest.fixture
def server(tmp_path: Path) -> Server:
    config = tiny_config(clients__count=4, privacy__trust="distributed", privacy__allowed_dropouts=1)
    first = client(tmp_path, config)
    *nodes, authority = first.federation.node_configs(None)
    AuthorityHome(Path(authority["home"])).set_terms(first.roster, FEWEST)
    key = answer(authority, terms(first)).message
    asked = PrototypeRequest(
        run_id=RUN,
        round_id=first.plan.rounds[0].round_id,
        key_id=key.key_id,
        public_context=key.public_context,
        context_signature=key.signature,
    )
    batch = []
    for node in nodes:
        assert answer(node, first.enrolment()).code == "ok"
        batch.append(answer(node, asked).message.contribution)
    return Server(first, authority, key, batch)


def nothing(reply: DecryptReply) -> bool:
    return (reply.code, dict(reply.values), reply.contributors) == ("refused", {}, [])


def test_one_clients_ciphertext_is_opened_in_no_form(server: Server, tmp_path: Path):
    one, two = server.batch[:2]
    name, other = (sha256(data).hexdigest() for data in (one, two))
    stranger = SigningKey.create(tmp_path / "stranger.key")
    plan, made_up = server.first.plan, []
    for party in ("client-1", "client-2", "client-9"):  # zeros in the names of others
        header = ContributionHeader(
            party, RUN, server.round_id, server.key.key_id, plan.ckks.identifier, plan.rounds[0].length
        )
        zeros = encrypt_integers(server.key.public_context, plan.ckks, [0] * plan.rounds[0].length)
        made_up.append(seal_contribution(header, zeros, stranger))
    for brought, names in (
        ([one], None),
        ([one, one, one], None),
        ([one], [name] * 3),
        ([one, one, two, two], [name, other, name]),
        ([one, two], [name, other]),
        ([one, *made_up], None),
        ([], [name]),
    ):
        assert nothing(server.decrypt(brought, names))
    assert server.decrypt(server.batch).contributors == [f"client-{index}" for index in range(4)]


def test_a_second_decryption_gives_the_first_again(server: Server):
    first = server.decrypt(server.batch)
    assert first.code == "ok" and first.values["sum"].shape == (server.first.plan.rounds[0].length,)
    again = server.decrypt(server.batch[::-1])
    assert (again.values["sum"] == first.values["sum"]).all()
    assert (again.signature, again.sum_digest) == (first.signature, first.sum_digest)
    for change in ({"magnitude_bound": 10**6}, {"round_id": "again-0"}, {"run_id": "another"}):
        assert nothing(server.decrypt(server.batch, **change))


@pytest.mark.parametrize(("before", "after"), [(4, 3), (3, 4)])
def test_another_contributor_set_for_the_same_round_is_refused(server: Server, before: int, after: int):
    """The difference of the two sums would be one client's."""
    assert server.decrypt(server.batch[:before]).code == "ok"
    assert nothing(server.decrypt(server.batch[:after]))
    assert nothing(server.decrypt(server.batch[1:]))


def test_contributions_of_one_run_are_none_of_another(server: Server):
    other = "fedcba9876543210"
    assert server.open(run_id=other).code == "ok"
    assert nothing(server.decrypt(server.batch[:3], run_id=other))
    assert server.decrypt(server.batch).code == "ok"
    decided = (Path(server.node["home"]) / "sums").glob("*/*")
    assert [path.parent.name for path in decided if path.is_dir()] == [RUN]


def test_a_roster_of_the_servers_own_clients_gets_no_key_and_no_client(server: Server, tmp_path: Path):
    honest = server.first.roster
    own = {name: SigningKey.create(tmp_path / f"{name}.key").public.hex() for name in honest}
    for number, roster in enumerate(
        (
            own,
            {**own, "client-0": honest["client-0"]},
            {**honest, "client-4": own["client-0"]},
            {name: honest[name] for name in list(honest)[:3]},
            {**honest, "client-0": honest["client-1"], "client-1": honest["client-0"]},
        )
    ):
        told = canonical_json(roster).decode()
        reply = server.open(run_id=f"0123456789abc{number:03d}", roster_json=told).message
        assert (reply.code, reply.key_id, reply.public_context) == ("refused", "", b"")
        enrolment = replace(server.first.enrolment(run_id=f"0123456789abc{number:03d}"), roster_json=told)
        assert server.first.ask(enrolment).code == "policy"


def test_a_smaller_minimum_gets_no_key(server: Server):
    assert server.open(run_id="fedcba9876543210", min_contributors=FEWEST - 1).code == "refused"
    assert server.open(min_contributors=FEWEST + 1).code == "refused"  # the run is open on other terms
    assert server.open().message.key_id == server.key.key_id
