"""Parties that draw their own keys: cards, federations founded with them, and what a party accepts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.client.session import ClientHome
from mosaic_secure.config import load_config
from mosaic_secure.deployment.cards import Card, make_card
from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.founding import found, revoke
from mosaic_secure.deployment.kits import accept, load_kit, rules_problem
from mosaic_secure.deployment.material import read_public_keys
from mosaic_secure.errors import UserError
from mosaic_secure.plan import build_plan
from privacy.canonical import canonical_json
from privacy.errors import PrivacyError
from privacy.identity import SigningKey
from privacy.policy import ClientPolicy

CONFIG = load_config("digits", {"clients.count": 3})
PRIVATE = load_config(
    "folder",
    {
        "data.clients_from": "own",
        "data.class_names": "cat,dog",
        "data.declared_records": 100,
        "data.population": "ward",
        "clients.count": 2,
    },
)
SECRETS = ("identity.key", "node.key", "runtime.secret")


@pytest.fixture(scope="module")
def founded_by_cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A federation with cards of client-1 and the authority, who have not accepted it; do not change it."""
    place = tmp_path_factory.mktemp("cards")
    kits = {party: place / party for party in ("client-1", "authority")}
    for party, kit in kits.items():
        make_card(kit, party)
    cards = [kit / "card.json" for kit in kits.values()]
    found(place / "federation", CONFIG, "localhost:8443", "ward", cards)
    return place / "federation" / "federation.json", kits


@pytest.fixture
def joining(founded_by_cards: tuple[Path, dict[str, Path]], tmp_path: Path) -> tuple[Path, Path, Path]:
    """The description, and copies of the kits of client-1 and of the authority."""
    file, kits = founded_by_cards
    copies = [Path(shutil.copytree(kit, tmp_path / party)) for party, kit in kits.items()]
    return file, *copies


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_card_is_of_the_keys_beside_it(tmp_path: Path):
    card = make_card(tmp_path / "kit", "client-2")
    assert Card.load(tmp_path / "kit" / "card.json") == card
    assert read_public_keys(tmp_path / "kit") == (card.party.identity, card.party.node_key)
    assert (card.party.party, card.party.role) == ("client-2", "client")
    assert set(contents(tmp_path / "kit")) == {*SECRETS, "card.json"}
    assert (tmp_path / "kit").stat().st_mode & 0o777 == 0o700
    for name in SECRETS:
        assert (tmp_path / "kit" / name).stat().st_mode & 0o777 == 0o600
    assert make_card(tmp_path / "other", "authority").party.role == "authority"


def test_a_card_holds_no_secret(tmp_path: Path):
    make_card(tmp_path / "kit", "client-2")
    data = (tmp_path / "kit" / "card.json").read_bytes()
    for name in SECRETS:
        secret = (tmp_path / "kit" / name).read_bytes()
        assert secret not in data and secret.hex().encode() not in data


@pytest.mark.parametrize("party", ["client-", "client-01", "client-1000", "Client-1", "server", "../x", ""])
def test_no_card_for_a_party_that_cannot_be(tmp_path: Path, party: str):
    with pytest.raises(UserError, match="client-0 to client-999"):
        make_card(tmp_path / "kit", party)
    assert list(tmp_path.iterdir()) == []


def test_a_card_never_overwrites_keys(tmp_path: Path):
    make_card(tmp_path / "kit", "client-2")
    before = contents(tmp_path / "kit")
    with pytest.raises(UserError, match="nothing is overwritten"):
        make_card(tmp_path / "kit", "client-2")
    assert contents(tmp_path / "kit") == before


def test_a_card_says_nothing_that_its_identity_did_not_sign(tmp_path: Path):
    first = make_card(tmp_path / "a", "client-0")
    second = make_card(tmp_path / "b", "client-1")
    key = SigningKey.load(tmp_path / "a" / "identity.key")
    for party in (
        replace(first.party, party="client-3"),
        replace(first.party, node_key=second.party.node_key),
        replace(first.party, identity=second.party.identity),
    ):
        with pytest.raises(UserError, match="signature"):
            Card(party, first.signature)
    body = first.party.to_dict() | {"schema_version": 1}
    for purpose in (
        {},
        {"purpose": ""},
        {"purpose": "mosaic-secure ledger head 1"},
    ):  # signed for another end
        with pytest.raises(UserError, match="signature"):
            Card(first.party, key.sign(canonical_json(body | purpose)))
    Card(first.party, key.sign(canonical_json(body | {"purpose": "mosaic-secure party card 1"})))


@given(data=st.data())
def test_no_tampered_card_is_read(
    founded_by_cards: tuple[Path, dict[str, Path]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
):
    known = (founded_by_cards[1]["client-1"] / "card.json").read_bytes()
    text = bytearray(known)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        if data.draw(st.booleans()):
            text[place] = data.draw(st.integers(0, 255))
        else:
            del text[place]
    if bytes(text).rstrip() == known:
        return
    path = tmp_path_factory.getbasetemp() / "tampered-card.json"
    path.write_bytes(bytes(text))
    with pytest.raises(UserError) as refused:
        Card.load(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_cards_are_pinned_and_get_no_kit(founded_by_cards: tuple[Path, dict[str, Path]]):
    file, kits = founded_by_cards
    known = FederationDescription.load(file)
    for party, kit in kits.items():
        assert known.find(party) == Card.load(kit / "card.json").party
    assert sorted(path.name for path in (file.parent / "kits").iterdir()) == ["client-0", "client-2"]
    own = [contents(kit)[name] for kit in kits.values() for name in SECRETS]
    for path in file.parent.rglob("*"):
        assert not path.is_file() or not any(secret in path.read_bytes() for secret in own)


@pytest.mark.parametrize(
    ("parties", "options", "named"),
    [
        (["client-3"], {}, "is of client-3; the parties are client-0 to client-2 and authority"),
        (["client-0", "client-0"], {}, "second card of client-0"),
        (["client-0"], {"cards_only": True}, "no card of client-1, client-2, authority"),
        ([], {"cards_only": True}, "no card of client-0"),
        ([], {"name": "a b"}, "name = 'a b'"),
        ([], {"server": "nowhere"}, "server = 'nowhere'"),
    ],
)
def test_foundings_that_are_refused_leave_nothing(
    tmp_path: Path, parties: list[str], options: dict[str, Any], named: str
):
    cards = []
    for number, party in enumerate(parties):
        make_card(tmp_path / f"kit{number}", party)
        cards.append(tmp_path / f"kit{number}" / "card.json")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=named):
        found(tmp_path / "federation", CONFIG, **{"server": "localhost:8443", "cards": cards} | options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_is_none_is_refused_by_its_field(tmp_path: Path):
    with pytest.raises(UserError, match="name .*: must be 1 to 100 of letters"):
        found(tmp_path / "federation", CONFIG, "localhost:8443", "é" * 40)
    assert not (tmp_path / "federation").exists()


def test_one_identity_cannot_be_two_parties(tmp_path: Path):
    card = make_card(tmp_path / "kit", "client-0")
    key = SigningKey.load(tmp_path / "kit" / "identity.key")
    Card.sign(replace(card.party, party="client-1"), key).save(tmp_path / "second.json")
    with pytest.raises(UserError, match="parties.client-1.identity: is that of client-0"):
        found(
            tmp_path / "federation",
            CONFIG,
            "localhost:8443",
            cards=[tmp_path / "kit" / "card.json", tmp_path / "second.json"],
        )
    assert not (tmp_path / "federation").exists()


def test_a_client_and_the_authority_accept(joining: tuple[Path, Path, Path]):
    file, client, authority = joining
    known = FederationDescription.load(file)
    for kit in (client, authority):
        before = contents(kit)
        taken = accept(kit, file, known.fingerprint, CONFIG)
        assert taken.wrote_rules and taken.kit == load_kit(kit)
        assert rules_problem(taken.kit) is None
        assert before.items() <= contents(kit).items()
        assert FederationDescription.load(kit / "federation.json") == known
    policy = ClientPolicy.load(client / "policy.toml")
    assert dict(policy.roster) == known.pinned and policy.authority == known.authority.identity
    terms = json.loads((authority / "terms.json").read_bytes())
    assert terms == {"roster": known.pinned, "min_contributors": 2}


def test_a_private_federation(tmp_path: Path):
    make_card(tmp_path / "kit", "client-0")
    known = found(tmp_path / "federation", PRIVATE, "localhost:8443", cards=[tmp_path / "kit" / "card.json"])
    assert known.population == known.name == "ward"
    accept(tmp_path / "kit", tmp_path / "federation" / "federation.json", known.fingerprint, PRIVATE)
    for place in (tmp_path / "kit", tmp_path / "federation" / "kits" / "client-1"):
        policy = ClientPolicy.load(place / "policy.toml")
        assert (policy.visibility, policy.trust, policy.allow_insecure_noise) == ("private", "local", False)
        assert (policy.max_epsilon_per_run, policy.max_epsilon_lifetime) == (8.0, 10.0)
        assert policy.allowed_releases == {release.name for release in build_plan(PRIVATE).budget.releases}


def test_what_is_not_accepted_changes_nothing(joining: tuple[Path, Path, Path], tmp_path: Path):
    file, client, authority = joining
    known = FederationDescription.load(file)
    told = known.fingerprint
    moved = tmp_path / "moved.json"
    replace(known, server="evil.example.org:8443").save(moved)
    swapped = tmp_path / "swapped.json"
    zero, one, *rest = known.parties
    keys = {"identity": one.identity, "node_key": one.node_key}
    other = {"identity": zero.identity, "node_key": zero.node_key}
    replace(known, parties=(replace(zero, **keys), replace(one, **other), *rest)).save(swapped)
    fresh = tmp_path / "fresh"
    make_card(fresh, "client-1")
    four = load_config("digits", {"clients.count": 4})
    before = [contents(kit) for kit in (client, authority, fresh)]
    cases: list[tuple[Path, Path, str, Any, str]] = [
        (client, moved, told, CONFIG, "by voice"),
        (client, file, "", CONFIG, "by voice"),
        (client, file, told[:-1], CONFIG, "by voice"),
        (
            client,
            swapped,
            FederationDescription.load(swapped).fingerprint,
            CONFIG,
            "this kit's keys as client-1",
        ),
        (fresh, file, told, CONFIG, "this kit's keys as client-1"),
        (client, file, told, four, "clients.count = 4"),
        (client, file, told, None, "config: is missing"),
        (authority, file, told, four, "clients.count = 4"),
        (client, tmp_path / "nowhere", told, CONFIG, "No such file"),
        (tmp_path, file, told, CONFIG, "keys card"),
    ]
    for kit, given_file, fingerprint, config, named in cases:
        with pytest.raises(UserError, match=named):
            accept(kit, given_file, fingerprint, config)
    assert [contents(kit) for kit in (client, authority, fresh)] == before


def test_the_configuration_must_be_about_the_same_population(joining: tuple[Path, Path, Path]):
    file, client, _ = joining
    fashion = load_config("fashion_mnist", {"clients.count": 3})
    with pytest.raises(UserError, match="'fashion_mnist-3', the federation about 'digits-3'"):
        accept(client, file, FederationDescription.load(file).fingerprint, fashion)
    assert not (client / "policy.toml").exists() and not (client / "federation.json").exists()


def test_a_refusal_does_not_tell_the_true_fingerprint(joining: tuple[Path, Path, Path]):
    file, client, _ = joining
    with pytest.raises(UserError) as refused:
        accept(client, file, "0000", CONFIG)
    assert FederationDescription.load(file).fingerprint not in str(refused.value)


def test_a_card_of_other_keys_is_not_accepted(joining: tuple[Path, Path, Path], tmp_path: Path):
    file, client, _ = joining
    told = FederationDescription.load(file).fingerprint
    make_card(tmp_path / "other", "client-1")
    for name in ("identity.key", "node.key"):
        own = (client / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, client / name)
        with pytest.raises(UserError, match="is not of the keys beside it"):
            accept(client, file, told, CONFIG)
        (client / name).write_bytes(own)
    accept(client, file, told, CONFIG)


def test_rules_that_are_there_are_kept(joining: tuple[Path, Path, Path]):
    file, client, authority = joining
    known = FederationDescription.load(file)
    accept(client, file, known.fingerprint, CONFIG)
    own = replace(ClientPolicy.load(client / "policy.toml"), max_epsilon_per_run=1.5)
    own.save(client / "policy.toml")
    revoked = authority.parent / "revoked.json"
    known.revoke("client-0").save(revoked)
    taken = accept(client, revoked, known.fingerprint)
    assert not taken.wrote_rules and ClientPolicy.load(client / "policy.toml") == own
    assert taken.kit.description.revoked == ("client-0",)


@pytest.mark.parametrize("party", ["client-1", "authority"])
def test_rules_for_another_roster_are_neither_used_nor_overwritten(
    joining: tuple[Path, Path, Path], founded: Path, party: str
):
    file, *kits = joining
    kit = next(kit for kit in kits if kit.name == party)
    rules = "terms.json" if party == "authority" else "policy.toml"
    shutil.copy(founded / "kits" / party / rules, kit / rules)
    before = contents(kit)
    with pytest.raises(UserError, match="pins another roster .* never overwritten"):
        accept(kit, file, FederationDescription.load(file).fingerprint, CONFIG)
    assert contents(kit) == before


def test_a_kit_must_have_the_keys_that_the_federation_knows(federation: Path, founded: Path):
    kit, other = federation / "kits" / "client-0", federation / "kits" / "client-1"
    assert load_kit(kit).party.party == "client-0"
    shutil.copy(other / "node.key", kit / "node.key")
    with pytest.raises(UserError, match=r"node\.key is not the one"):
        load_kit(kit)
    make_card(federation / "stranger", "client-0")
    with pytest.raises(UserError, match="keys accept"):
        load_kit(federation / "stranger")
    shutil.copy(founded / "federation.json", federation / "stranger")
    with pytest.raises(UserError, match="is of no party"):
        load_kit(federation / "stranger")
    (other / "identity.key").unlink()
    with pytest.raises(PrivacyError, match=r"identity\.key"):
        load_kit(other)
    with pytest.raises(UserError, match="no such folder"):
        load_kit(federation / "nowhere")


@pytest.mark.parametrize(
    ("party", "damage", "named"),
    [
        ("client-0", b"schema_version = 9\n", "schema_version must be 3"),
        ("client-0", b"\xff", "not valid TOML"),
        ("authority", b"{", "is damaged"),
        ("authority", b"[]", "fields roster and min_contributors"),
        ("authority", b'{"roster":{},"min_contributors":true}', "min_contributors must be a whole number"),
        ("authority", b'{"roster":{},"min_contributors":2}', "pins another roster"),
    ],
)
def test_damaged_rules_are_a_problem_and_no_crash(federation: Path, party: str, damage: bytes, named: str):
    kit = load_kit(federation / "kits" / party)
    assert rules_problem(kit) is None
    kit.rules.write_bytes(damage)
    assert named in (rules_problem(kit) or "")


def test_rules_of_another_authority_or_population(federation: Path):
    kit = load_kit(federation / "kits" / "client-0")
    policy = ClientPolicy.load(kit.rules)
    replace(policy, authority="ab" * 32).save(kit.rules)
    assert "another key authority" in (rules_problem(kit) or "")
    replace(policy, population="patients").save(kit.rules)
    assert "for population 'patients'" in (rules_problem(kit) or "")


def test_revoking(federation: Path):
    before = FederationDescription.load(federation / "federation.json")
    assert revoke(federation, "client-1").revoked == ("client-1",)
    assert revoke(federation, "client-1").revoked == ("client-1",)
    after = FederationDescription.load(federation / "federation.json")
    assert after == replace(before, revoked=("client-1",)) and after.fingerprint == before.fingerprint
    for party, named in (("client-3", "client-0 to client-2"), ("authority", "cannot be revoked")):
        with pytest.raises(UserError, match=named):
            revoke(federation, party)
    with pytest.raises(UserError, match="is no folder of a federation"):
        revoke(federation / "kits" / "client-0", "client-1")


def test_a_second_federation_over_the_same_people_goes_on_with_their_ledgers(tmp_path: Path):
    """As docs/deploy.md says: the same kit and card, the old rules moved away."""
    kit, gone = tmp_path / "client-0", tmp_path / "client-1"
    for place in (kit, gone):
        make_card(place, place.name)
    plan = build_plan(CONFIG).budget
    for name, cards in (("first", [kit, gone]), ("second", [kit])):
        known = found(tmp_path / name, CONFIG, "localhost:8443", cards=[card / "card.json" for card in cards])
        (kit / "policy.toml").unlink(missing_ok=True)
        assert accept(kit, tmp_path / name / "federation.json", known.fingerprint, CONFIG).wrote_rules
        home = ClientHome(kit, "client-0")
        with home.ledger() as ledger:
            ledger.enrol(name, plan, "0" * 64, home.policy)
            enrolled = [run.run_id for run in ledger.runs()]
    assert enrolled == ["first", "second"]
