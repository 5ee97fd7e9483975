"""What reaches whom in a real run, on the very bytes that the engine moved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto

from mosaic_secure.data import load_client
from mosaic_secure.protocol.codec import decode, field_bytes
from mosaic_secure.protocol.fields import field_specs
from mosaic_secure.protocol.log import walk
from mosaic_secure.protocol.messages import MESSAGES
from mosaic_secure.protocol.trust import flow_problem

from .conftest import Finished
from .tiny import CLIENTS, tiny_config

# Who may receive which class of information, written out anew and not read off the code under test.
MAY_REACH = {
    "server": {"control", "public", "dp_release", "ciphertext", "sum", "signature", "sealed", "share"},
    "client": {"control", "public", "signature", "sealed"},
    "authority": {"control", "ciphertext", "signature"},
}
MAY_LEAVE = {
    "server": {"control", "public", "ciphertext", "signature", "sealed"},
    "client": {"control", "public", "dp_release", "ciphertext", "signature", "sealed", "share"},
    "authority": {"control", "public", "sum", "signature"},
}


@pytest.fixture(scope="module", params=["finished", "distributed", "masked"])
def ran(request) -> Finished:
    """Runs that ended well: with trust local, with distributed trust and fine-tuning, with pairwise masks."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def spoken(ran):
    """(message, how it passed) of everything that was sent, decoded from its bytes."""
    out = []
    for passed in ran.wire.passed:
        received = message_from_proto(MessageProto.FromString(passed.data))
        assert not received.has_error()
        name = received.content["message"]["schema"].split("/")[0]
        out.append((decode(MESSAGES[name], received.content), passed))
    return out


def test_the_log_of_a_run_passes_the_walk(ran):
    report = walk(ran.path / "messages.jsonl")
    assert report.problems == () and report.messages > 30 and report.fields > 100


def test_no_field_reaches_a_role_that_must_not_see_it(ran, spoken):
    kinds = set()
    for message, passed in spoken:
        name = type(message).__name__
        kinds.add(name)
        assert flow_problem(type(message), passed.source, passed.target) is None
        for spec in field_specs(type(message)):
            allowed = MAY_LEAVE[passed.source] & MAY_REACH[passed.target]
            assert spec.field_class in allowed, f"{name}.{spec.name} from {passed.source} to {passed.target}"
    unused = set() if ran.fine_tuned else {"FineTuneRequest", "FineTuneReply"}
    unused |= set() if ran.masked else {name for name in MESSAGES if "mask" in name.lower()}
    unused |= {"ContributeRequest", "ContributeReply"}  # few contributions come with what asks for their sum
    assert kinds == set(MESSAGES) - unused


def test_the_log_names_what_was_sent_and_nothing_else(ran, spoken):
    logged = []
    for line in (ran.path / "messages.jsonl").read_text().splitlines():
        entry = json.loads(line)
        hashes = tuple(item["sha256"] for item in entry["fields"])
        logged.append((entry["message"], entry["src"], entry["dst"], hashes))
    sent = []
    for message, passed in spoken:
        if type(message).__name__.startswith("Hello"):  # before the log: who is there
            continue
        ends = ("server", passed.party) if passed.source == "server" else (passed.party, "server")
        values = (field_bytes(getattr(message, spec.name)) for spec in field_specs(type(message)))
        hashes = tuple(hashlib.sha256(value).hexdigest() for value in values)
        sent.append((type(message).__name__, *ends, hashes))
    assert sorted(sent) == sorted(logged)


def holders(ran: Finished, piece: bytes) -> set[tuple[str, str, str]]:
    """(source, target, party) of the messages that hold these bytes."""
    return {(p.source, p.target, p.party) for p in ran.wire.passed if piece in p.data}


def test_a_contribution_goes_from_its_client_over_the_server_to_the_authority_alone(ran, spoken):
    contributions = [
        (passed.party, message.contribution)
        for message, passed in spoken
        if type(message).__name__ == "PrototypeReply"
    ]
    assert len(contributions) == 2 * len(CLIENTS)
    for party, contribution in contributions:
        assert holders(ran, contribution[600:700]) == {
            ("client", "server", party),
            ("server", "authority", "authority"),
        }


def test_weights_go_to_the_server_alone(ran, spoken):
    replies = [(m, p) for m, p in spoken if type(m).__name__ == "LocalTrainingReply"]
    assert len(replies) == len(CLIENTS)
    for message, passed in replies:
        for arrays in (message.classifier, message.generator):
            name, largest = max(arrays.items(), key=lambda item: item[1].size)
            piece = largest.tobytes()[:256]
            assert holders(ran, piece) == {("client", "server", passed.party)}, name
    for message, passed in spoken:
        if type(message).__name__ == "FineTuneReply":
            name, largest = max(message.weights.items(), key=lambda item: item[1].size)
            assert holders(ran, largest.tobytes()[:256]) == {("client", "server", passed.party)}, name


def test_no_record_code_or_exact_count_leaves_a_client(ran, spoken):
    config = tiny_config()
    for index, party in enumerate(CLIENTS):
        data = load_client(config, index)
        for image in data.images[:40]:
            for form in (image, image.astype(np.float64), (image * 16).astype(np.uint8)):
                assert not holders(ran, form.tobytes())
        exact = np.bincount(data.labels, minlength=10)
        told = [
            message.counts["counts"]
            for message, passed in spoken
            if type(message).__name__ == "PrototypeReply" and message.counts and passed.party == party
        ]
        assert len(told) == 1 and told[0].shape == (10,)
        assert np.abs(told[0] - exact).max() > 0.5


def told_key(ran: Finished) -> set[Path]:
    """Files of the run and of its parties that hold a piece of the secret key; no message may."""
    pieces = ran.wire.key_pieces
    assert len(pieces) > 50
    for passed in ran.wire.passed:
        assert not any(piece in passed.data for piece in pieces)
    files = [path for top in (ran.path, ran.ledgers) for path in top.rglob("*") if path.is_file()]
    return {path for path in files if any(piece in path.read_bytes() for piece in pieces)}


def test_the_secret_key_is_in_no_message_and_in_no_file_when_the_run_is_over(ran):
    assert told_key(ran) == set()  # the authority has destroyed its own copy


def test_the_secret_key_is_with_the_authority_alone_while_a_run_is_open(stopped):
    stages = {path.stem for path in (stopped.path / "checkpoints").glob("*.stage")}
    assert {"enrol", "centre-0", "moments-0", "local-0", "assembled", "fine-tune-0"} <= stages
    assert not (stopped.path / "ledgers.json").exists()
    (key,) = stopped.ledgers.glob("*/authority/keys/*/secret.ctx")
    assert told_key(stopped) == {key}


def test_what_is_sealed_to_a_client_goes_over_the_server_to_that_client_alone(ran, spoken):
    boxes = {
        (passed.party, receiver): box
        for message, passed in spoken
        if type(message).__name__ == "MaskSharesReply"
        for receiver, box in zip(message.receivers, message.boxes, strict=True)
    }
    assert len(boxes) == (len(CLIENTS) ** 2 if ran.masked else 0)
    for (sender, receiver), box in boxes.items():
        assert holders(ran, box[12:44]) == {("client", "server", sender), ("server", "client", receiver)}


def test_shares_of_masks_go_to_the_server_alone(ran, spoken):
    replies = [(m, p) for m, p in spoken if type(m).__name__ == "UnmaskReply"]
    assert len(replies) == (2 * len(CLIENTS) if ran.masked else 0)
    for message, passed in replies:
        assert all(holders(ran, share) == {("client", "server", passed.party)} for share in message.shares)


def test_secrets_of_releases_are_gone_and_were_in_no_message(ran):
    assert not list(ran.ledgers.glob("*/*/secrets/*/*"))
    assert not list(ran.ledgers.glob("*/*/cache/*/*"))
    assert not list(ran.ledgers.glob("*/*/masks/*/*"))
