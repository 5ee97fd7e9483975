"""What a client gives away of its masks to a server that does not keep to the protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import AggregationError, BudgetError
from privacy.identity import SigningKey
from privacy.secagg.mask_book import MaskBook, forget_masks
from privacy.secagg.mask_terms import MaskTerms, bundle_text, sign_view
from privacy.secagg.masks import unmask

from .mask_parties import MODULUS, ROUNDS, MaskParties

ROUND = "centre-0"
ALL = [f"client-{number}" for number in range(5)]
ME = "client-0"
ZEROS = np.zeros(ROUNDS[ROUND], dtype=np.int64)


@pytest.fixture
def parties(tmp_path: Path) -> MaskParties:
    """Five clients, four of which are needed; they have agreed on masks."""
    made = MaskParties(tmp_path, 5, 4)
    made.agree()
    return made


@pytest.fixture
def strangers(tmp_path: Path) -> MaskParties:
    """Five clients before they agree."""
    return MaskParties(tmp_path, 5, 4)


def test_what_was_given_once_is_given_again_and_nothing_else(parties):
    bundles = parties.bundles()
    assert bundles == parties.bundles()
    assert parties.book(ME).deal(*bundles) == parties.book(ME).deal(*bundles)
    boxes = [bytes(parties.terms.box_bytes)] * 5  # others than the first time: what was kept stays
    assert parties.book(ME).join(ALL, boxes) == parties.signatures[ME]
    np.testing.assert_array_equal(parties.book(ME).mask(ROUND, ZEROS), parties.book(ME).mask(ROUND, ZEROS))
    first = parties.book(ME).reveal(ROUND, ALL, True)
    assert first == parties.book(ME).reveal(ROUND, ALL, True)


def test_secrets_are_on_the_disk_for_their_owner_alone_and_gone_when_forgotten(parties):
    parties.book(ME).reveal(ROUND, ALL, True)
    files = [path for path in (parties.home / ME / "masks").rglob("*") if path.is_file()]
    names = {"keys.json", "dealt.json", "view.json", f"unmask-{ROUND}.json"}
    assert {path.name for path in files} == names
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    secret = json.loads((parties.home / ME / "masks" / "run-1" / "keys.json").read_text())["share_key"]
    assert secret not in repr(parties.book(ME)) + repr(parties.terms)
    forget_masks(parties.home / ME, "run-1")
    assert not (parties.home / ME / "masks" / "run-1").exists()
    with pytest.raises(AggregationError, match="not come so far"):
        parties.book(ME).reveal(ROUND, ALL, True)


def test_a_client_that_is_asked_for_two_sums_of_a_round_answers_for_the_first(parties):
    parties.book(ME).reveal(ROUND, ALL, True)
    with pytest.raises(AggregationError, match="other contributors"):
        parties.book(ME).reveal(ROUND, ALL[:4], True)


@pytest.mark.parametrize(
    ("contributors", "contributed", "named"),
    [
        (ALL[:3], True, "at least 4"),
        (ALL[1:], True, "whether this client contributed"),
        (ALL, False, "whether this client contributed"),
        ([*ALL[:4], "client-9"], True, "members of the masks"),
        ([ALL[1], ALL[0], *ALL[2:]], True, "each once, sorted"),
        ([ALL[0], *ALL[:4]], True, "each once, sorted"),
    ],
)
def test_a_set_that_would_tell_too_much_is_refused_and_spoils_nothing(
    parties, contributors, contributed, named
):
    with pytest.raises(AggregationError, match=named):
        parties.book(ME).reveal(ROUND, contributors, contributed)
    assert len(parties.book(ME).reveal(ROUND, ALL, True)) == 5


def test_a_round_that_is_not_in_the_run_is_refused(parties):
    for ask in (
        lambda book: book.reveal("moments-9", ALL, True),
        lambda book: book.mask("moments-9", ZEROS),
        lambda book: book.reveal("../../identity", ALL, True),
    ):
        with pytest.raises((AggregationError, BudgetError)):
            ask(parties.book(ME))


def test_a_client_gives_one_kind_of_share_of_each_other_client(parties):
    """What it gave opens with the others' shares: seeds of contributors, the mask key of who is out."""
    present = ALL[:4]
    total = sum(parties.contribute(client, ROUND, ZEROS) for client in present)
    answers = {client: parties.book(client).reveal(ROUND, present, True) for client in present}
    found = unmask(parties.terms, ROUND, total, present, parties.opened(), answers)
    np.testing.assert_array_equal(found, ZEROS)
    view = json.loads((parties.home / ME / "masks" / "run-1" / "view.json").read_text())
    given = b"".join(answers[ME]).hex()
    for member, shares in view["shares"].items():
        assert sum(shares[at : at + 66] in given for at in range(0, len(shares), 66)) == 1, member


def test_who_has_helped_with_a_sum_contributes_nothing_more_to_it(parties):
    others = ALL[1:]
    parties.book(ME).reveal(ROUND, others, False)
    with pytest.raises(AggregationError, match="are settled"):
        parties.book(ME).check_open(ROUND, contributed=False)
    parties.book(ME).check_open(ROUND, contributed=True)  # what it contributed before may be sent again
    parties.book(ME).check_open("moments-0", contributed=False)


def test_shares_are_dealt_once_to_one_set_of_keys(strangers):
    texts, signatures = strangers.bundles()
    strangers.book(ME).deal(texts[:4], signatures[:4])
    with pytest.raises(AggregationError, match="dealt to other keys"):
        strangers.book(ME).deal(texts, signatures)


def forged(client: str, signer: SigningKey, **other: object) -> tuple[str, bytes]:
    """Keys in the name of `client`, signed by `signer`."""
    point = bytes(range(32))
    said = {"run_id": "run-1", "agreement": "a0" * 32, "rounds": ROUNDS, "key": point, **other}
    terms = MaskTerms(said["run_id"], said["agreement"], {}, said["rounds"], 4, MODULUS)
    keys, seeds = dict.fromkeys(said["rounds"], said["key"]), dict.fromkeys(said["rounds"], "00")
    text = bundle_text(terms, client, said["key"], keys, seeds)
    return text, signer.sign(text.encode())


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        ({}, "not signed by a client of the pinned roster"),
        ({"signer": "client-1", "run_id": "run-2"}, "another run or plan"),
        ({"signer": "client-1", "agreement": "b0" * 32}, "another run or plan"),
        ({"signer": "client-1", "rounds": {"centre-0": 7}}, "another run or plan"),
        ({"signer": "client-1", "key": bytes(32)}, "no public key"),
        ({"signer": "client-1", "key": (1).to_bytes(32, "little")}, "no public key"),
        ({"signer": "client-1", "key": bytes(31)}, "32 bytes"),
        ({"client": "client-9"}, "pinned roster"),
        ({"signer": "client-1", "client": "client-2"}, "not signed"),
    ],
)
def test_keys_that_no_client_of_the_roster_signed_for_this_run_get_no_shares(strangers, lie, named, tmp_path):
    stranger = SigningKey.create(tmp_path / "stranger.key")
    said = {"client": "client-1", "signer": "", **lie}
    signer = strangers.keys.get(said.pop("signer"), stranger)
    bad = forged(said.pop("client"), signer, **said)
    texts, signatures = strangers.bundles()
    texts[1], signatures[1] = bad
    with pytest.raises(AggregationError, match=named):
        strangers.book(ME).deal(texts, signatures)
    assert not (strangers.home / ME / "masks" / "run-1" / "dealt.json").exists()


def test_a_roster_that_is_not_the_pinned_one_gets_no_shares(strangers, tmp_path):
    """The server swaps one client for one of its own: its keys are signed, but not by the pinned identity."""
    swapped = MaskParties(tmp_path / "swapped", 5, 4)
    texts, signatures = strangers.bundles()
    others, other_signatures = swapped.bundles()
    with pytest.raises(AggregationError, match="pinned roster"):
        strangers.book(ME).deal([*texts[:4], others[4]], [*signatures[:4], other_signatures[4]])
    with pytest.raises(AggregationError, match="not on the pinned roster"):
        MaskBook(strangers.home / ME, ME, strangers.keys[ME], swapped.terms)


def test_too_few_keys_or_none_of_its_own_get_no_shares(strangers):
    texts, signatures = strangers.bundles()
    with pytest.raises(AggregationError, match="3 clients offer keys"):
        strangers.book(ME).deal(texts[:3], signatures[:3])
    with pytest.raises(AggregationError, match="its own keys"):
        strangers.book(ME).deal(texts[1:], signatures[1:])
    with pytest.raises(AggregationError, match="two bundles"):
        strangers.book(ME).deal([*texts, texts[1]], [*signatures, signatures[1]])
    with pytest.raises(AggregationError, match="signatures"):
        strangers.book(ME).deal(texts, signatures[:4])


def boxes_for(parties: MaskParties, receiver: str, senders: list[str]) -> list[bytes]:
    bundles = parties.bundles()
    dealt = {sender: dict(zip(*parties.book(sender).deal(*bundles), strict=True)) for sender in senders}
    return [dealt[sender][receiver] for sender in senders]


def test_a_client_signs_one_view_of_who_takes_part(strangers):
    boxes = boxes_for(strangers, ME, ALL)
    strangers.book(ME).join(ALL[:4], boxes[:4])
    with pytest.raises(AggregationError, match="signed that others take part"):
        strangers.book(ME).join(ALL, boxes)


@pytest.mark.parametrize(
    ("senders", "named"),
    [
        (ALL[:3], "3 clients take part"),
        (ALL[1:], "this one among them"),
        ([*ALL[:4], "client-9"], "dealt to"),
        ([*ALL[:4], ALL[3]], "each once"),
        (ALL[::-1], "sorted"),
    ],
)
def test_a_view_that_is_too_small_or_not_its_own_is_not_signed(strangers, senders, named):
    boxes_for(strangers, ME, ALL)
    with pytest.raises(AggregationError, match=named):
        strangers.book(ME).join(senders, [b""] * len(senders))


def test_nobody_masks_before_enough_clients_have_signed_the_same_view(parties):
    signers, signatures = parties.certificate
    parties.book(ME).check_certificate(signers[:4], signatures[:4])
    other = MaskParties(parties.home, 5, 4)
    other.members = ALL[:4]
    elsewhere = sign_view(parties.terms, other.opened(), parties.keys["client-3"])
    for few in (
        (signers[:3], signatures[:3]),
        ([*signers[:3], signers[2]], [*signatures[:3], signatures[2]]),
        (signers[:4], [*signatures[:3], bytes(64)]),
        (signers[:4], [*signatures[:3], elsewhere]),  # of another view
        ([*signers[:3], "client-9"], signatures[:4]),
        ([], []),
    ):
        with pytest.raises(AggregationError, match="have signed who takes part"):
            parties.book(ME).check_certificate(*few)


def test_boxes_open_for_their_receiver_alone_and_a_broken_one_costs_one_share(strangers):
    bundles = strangers.bundles()
    dealt = {client: dict(zip(*strangers.book(client).deal(*bundles), strict=True)) for client in ALL}
    good = [dealt[sender][ME] for sender in ALL]
    wrong = [
        dealt["client-1"]["client-2"],  # sealed to somebody else
        bytes([good[2][0] ^ 1]) + good[2][1:],
        good[3][:-1],
        dealt[ME]["client-4"],  # its own, for that very client
    ]
    strangers.book(ME).join(ALL, [good[0], *wrong])
    view = json.loads((strangers.home / ME / "masks" / "run-1" / "view.json").read_text())
    assert {member for member, shares in view["shares"].items() if shares} == {ME}
    answer = strangers.book(ME).reveal(ROUND, ALL, True)
    assert [len(share) for share in answer] == [33, 0, 0, 0, 0]


def test_a_damaged_file_is_told_and_not_replaced(parties):
    path = parties.home / ME / "masks" / "run-1" / "keys.json"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AggregationError, match=r"keys\.json: cannot be read"):
        parties.book(ME).mask(ROUND, ZEROS)
    with pytest.raises(AggregationError, match=r"keys\.json: cannot be read"):
        parties.book(ME).bundle()
