"""A party fails at every exchange of a run, in every way: the run ends whole, or stops with everything kept.

Every kind of message that a run sends to clients is here, once for each stage that sends it; the first test
fails when the protocol gets another. The key authority fails in `test_faults_of_the_authority.py`, the server
in `test_kills.py`, and real processes are killed in `deployment/test_cluster.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from mosaic_secure.engine.discovery import DiscoveryError
from mosaic_secure.errors import UserError
from mosaic_secure.protocol.messages import REQUESTS
from mosaic_secure.server import contributions
from privacy.errors import PrivacyError

from .faults import FEWEST, Exchange, Fault, How, Trial, config_of

LOST, OTHER = "client-1", "client-3"
HOWS: tuple[How, ...] = get_args(How)
HELLO = Exchange("hello", "HelloRequest")
ENROL = Exchange("enrol", "EnrolRequest")
ENROL_ANCHOR = Exchange("anchor", "SealRequest")
SHARES = Exchange("mask-shares", "MaskSharesRequest")
VIEW = Exchange("mask-view", "MaskViewRequest")
CENTRE = Exchange("centre-0", "PrototypeRequest")
CENTRE_UNMASK = Exchange("centre-0-unmask", "UnmaskRequest")
MOMENTS = Exchange("moments-0", "PrototypeRequest")
MOMENTS_UNMASK = Exchange("moments-0-unmask", "UnmaskRequest")
LOCAL = Exchange("local-0", "LocalTrainingRequest")
TUNE = Exchange("fine-tune-0", "FineTuneRequest")
SEAL = Exchange("seal", "SealRequest")
SEAL_ANCHOR = Exchange("anchor", "SealRequest", 2)
NOT_ASKED = {SHARES: VIEW, CENTRE: CENTRE_UNMASK, MOMENTS: MOMENTS_UNMASK, SEAL: SEAL_ANCHOR}
"""What a client that missed the one is not asked, or not told of, any more."""
MASKED = (SHARES, VIEW, CENTRE_UNMASK, MOMENTS_UNMASK)
CLIENT_EXCHANGES = (
    HELLO,
    ENROL,
    ENROL_ANCHOR,
    SHARES,
    VIEW,
    CENTRE,
    CENTRE_UNMASK,
    MOMENTS,
    MOMENTS_UNMASK,
    LOCAL,
    TUNE,
    SEAL,
    SEAL_ANCHOR,
)
AUTHORITY_EXCHANGES = (
    Exchange("anchor", "AnchorRequest"),
    Exchange("authority", "AuthorityOpen"),
    Exchange("centre-0", "ContributeRequest"),
    Exchange("centre-0", "DecryptRequest"),
    Exchange("moments-0", "ContributeRequest"),
    Exchange("moments-0", "DecryptRequest"),
    Exchange("anchor", "AnchorRequest", 2),
    Exchange("seal", "AuthorityClose"),
)
Begin = Callable[..., Trial]
Rows = set[tuple[str, str, str]]


def order_of(name: str) -> list[Exchange]:
    """The exchanges with clients of an undisturbed run."""
    return [e for e in CLIENT_EXCHANGES if name == "masked" or e not in MASKED]


def expected(name: str, how: How, at: Exchange) -> Rows:
    """Who is left out of which stage, and with which word, after a fault of one client."""
    if at == HELLO:
        return {("enrol", LOST, "absent")}
    order = order_of(name)
    before, later = order[order.index(at) - 1], order[order.index(at) :]
    codes: dict[Exchange, str] = {}
    if how == "dies":
        codes = dict.fromkeys(later, "silent")
    elif how in ("restarts", "late"):
        codes = {at: "silent"}
        if at == SHARES or (at == VIEW and how == "restarts"):  # who missed the masks contributes nothing
            codes |= dict.fromkeys((CENTRE, MOMENTS), "refused")
    elif how == "wiped":
        codes = dict.fromkeys(later, "ledger")
    elif before in (ENROL, SEAL):
        codes = {at: "ledger"}
    elif before == SHARES:
        codes = dict.fromkeys((VIEW, CENTRE, MOMENTS), "refused")
    elif before == VIEW:
        codes = dict.fromkeys((CENTRE, MOMENTS), "refused")
    elif before in (CENTRE, MOMENTS, LOCAL, TUNE):  # it forgot a release that the server has
        codes = {SEAL: "ledger"} | ({at: "refused"} if at in MASKED else {})
    if ENROL in codes or ENROL_ANCHOR in codes:
        return {("enrol", LOST, next(iter(codes.values())))}
    for missed, not_asked in NOT_ASKED.items():
        if missed in codes:
            codes.pop(not_asked, None)
    return {(exchange.stage, LOST, code) for exchange, code in codes.items()}


def goes_on_without(trial: Trial, name: str, how: How, at: Exchange) -> None:
    """One client fails; the run ends, says so, and everything holds."""
    trial.attempt(Fault(LOST, how, at))
    trial.check_end()
    rows = expected(name, how, at)
    assert trial.left_out() == rows
    stages = {stage for stage, _, _ in rows}
    missing = bool(stages & {"enrol", "seal"})
    assert trial.excerpts() == set(trial.config.client_ids) - ({LOST} if missing else set())
    for round_id, contributors in trial.sums().items():
        away = bool(stages & {"enrol", round_id})
        assert contributors == [c for c in trial.config.client_ids if not (away and c == LOST)]


def stops_and_resumes(trial: Trial, at: Exchange) -> None:
    """Two clients fail, which is one too many; with all of them there the run ends as if nothing had been."""
    faults = [Fault(client, "dies", at) for client in (LOST, OTHER)]
    if at == SEAL_ANCHOR:  # everything has ended already
        trial.attempt(*faults)
        trial.check_end()
        assert trial.left_out() == {("anchor", client, "silent") for client in (LOST, OTHER)}
        return
    with pytest.raises((UserError, PrivacyError, DiscoveryError)) as caught:
        trial.attempt(*faults)
    assert f" {FEWEST}" in str(caught.value) and "2 " in str(caught.value) and "\n" not in str(caught.value)
    trial.check_moment()
    claimed = trial.sums()
    reached = [e.stage for e in order_of("masked") if e.kind == "PrototypeRequest"]
    reached = [stage for stage in reached if order_index(stage) < CLIENT_EXCHANGES.index(at)]
    assert sorted(claimed) == sorted(reached)
    if at.kind == "UnmaskRequest":  # what was decrypted is masked, and stays so
        assert not (trial.run / "checkpoints" / f"{at.stage.removesuffix('-unmask')}.stage").exists()
    trial.attempt()
    trial.check_end()
    assert trial.left_out() == set() and trial.excerpts() == set(trial.config.client_ids)
    assert claimed.items() <= trial.sums().items()


def order_index(stage: str) -> int:
    """Where the contributions to a round are asked for."""
    return CLIENT_EXCHANGES.index(Exchange(stage, "PrototypeRequest"))


def cells(name: str, exchanges: tuple[Exchange, ...] = CLIENT_EXCHANGES) -> list[tuple[str, Exchange]]:
    return [(name, exchange) for exchange in order_of(name) if exchange in exchanges]


PLACES = [
    *cells("local"),
    *cells("distributed", (ENROL, CENTRE, MOMENTS)),
    *cells(
        "masked", (ENROL_ANCHOR, SHARES, VIEW, CENTRE, CENTRE_UNMASK, MOMENTS, MOMENTS_UNMASK, LOCAL, SEAL)
    ),
]
MATRIX = [
    pytest.param(name, at, how, id=f"{name}-{at}-{how}")
    for name, at in PLACES
    for how in HOWS
    if how not in ("stale", "wiped") or at not in (HELLO, ENROL)  # nothing was kept of the run before
]


def test_every_message_of_a_run_is_in_the_matrix(begun: Begin, monkeypatch: pytest.MonkeyPatch):
    """A kind of request, or a stage, that is added to the protocol must be added here."""
    for limit in ("PART_BYTES", "MOST_BYTES"):
        monkeypatch.setattr(contributions, limit, 1)
    trial = begun("masked", privacy__epsilon="inf")
    trial.attempt()
    trial.check_end()
    assert trial.left_out() == set() and trial.grid.unanswered == []
    covered = {*CLIENT_EXCHANGES, *AUTHORITY_EXCHANGES}
    assert {(e.stage, e.kind) for e in trial.grid.asked} == {(e.stage, e.kind) for e in covered}
    assert {e.kind for e in covered} == {cls.__name__ for cls in REQUESTS}
    to_clients = {cls.__name__ for cls in REQUESTS if "client" in cls.receivers}
    assert {e.kind for e in CLIENT_EXCHANGES} == to_clients
    assert {at for _, at in PLACES} == set(CLIENT_EXCHANGES)


@pytest.mark.parametrize(
    ("name", "at", "how"),
    [
        ("local", LOCAL, "dies"),
        ("masked", SHARES, "restarts"),
        ("distributed", CENTRE, "late"),
        ("masked", MOMENTS_UNMASK, "stale"),
    ],
)
def test_one_fault_of_each_way(begun: Begin, name: str, at: Exchange, how: How):
    """Of the matrix, what the quick tests have time for; without noise, whose plan takes a while."""
    goes_on_without(begun(name, privacy__epsilon="inf"), name, how, at)


@pytest.mark.parametrize(
    ("name", "at"),
    [("distributed", MOMENTS), pytest.param("masked", CENTRE_UNMASK, marks=pytest.mark.slow)],
)
def test_too_few_for_a_sum(begun: Begin, name: str, at: Exchange):
    """As the last test of the matrix."""
    stops_and_resumes(begun(name, privacy__epsilon="inf"), at)


@pytest.mark.parametrize("name", [pytest.param("local", marks=pytest.mark.slow), "masked"])
def test_a_settled_sum_is_finished_without_a_client_that_is_gone_since(begun: Begin, name: str):
    """Its contribution is in the set that the authority decrypts, whatever it does later."""
    trial = begun(name, privacy__epsilon="inf")
    at = MOMENTS_UNMASK if name == "masked" else Exchange("moments-0", "DecryptRequest")
    parties = (LOST, OTHER) if name == "masked" else ("authority",)
    with pytest.raises(PrivacyError):
        trial.attempt(*(Fault(party, "dies", at) for party in parties))
    assert ("moments-0" in trial.sums()) == (name == "masked")
    trial.attempt(Fault(LOST, "dies", HELLO))
    trial.check_end()
    assert trial.sums()["moments-0"] == list(trial.config.client_ids)
    stages = [e.stage for e in (LOCAL, TUNE, SEAL)] + (["moments-0-unmask"] if name == "masked" else [])
    assert trial.left_out() == {(stage, LOST, "absent") for stage in stages}


def test_a_home_from_before_a_run_is_refused_by_that_run_and_by_the_next(begun: Begin):
    """The authority has counter-signed a newer head of its ledger."""
    trial = begun("local", privacy__epsilon="inf")
    goes_on_without(trial, "local", "wiped", TUNE)
    changed = config_of("local", privacy__epsilon="inf", seed=2)
    second = replace(trial, name="second", config=changed, sent=defaultdict(set))
    second.attempt()
    second.check_end()
    assert second.left_out() == {("enrol", LOST, "ledger")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at", "how"), MATRIX)
def test_a_run_goes_on_without_one_client(begun: Begin, name: str, at: Exchange, how: How):
    goes_on_without(begun(name), name, how, at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at"), [pytest.param(*place, id="-".join(map(str, place))) for place in PLACES]
)
def test_a_run_without_enough_clients_stops_and_is_resumed(begun: Begin, name: str, at: Exchange):
    stops_and_resumes(begun(name), at)
