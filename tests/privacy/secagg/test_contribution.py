from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError, ContributionError
from privacy.identity import SIGNATURE_BYTES, SigningKey
from privacy.secagg.aggregation import set_digest, sum_contributions
from privacy.secagg.ciphertexts import generate_keys
from privacy.secagg.contribution import (
    CODES,
    accept_contributions,
    open_accepted,
    open_contribution,
    seal_contribution,
)
from privacy.secagg.packing import encrypt_integers

from .conftest import LENGTH, SMALL

MALFORMED = 1000
# What each kind of fault may be called.
NAMES = {
    "truncated": {"empty", "bad-framing"},
    "bit-flipped": {
        "bad-framing",
        "bad-header",
        "bad-signature",
        "bad-body",
        "unknown-client",
        "wrong-client",
    },
    "replayed": {"wrong-round", "wrong-run"},
    "foreign key": {"bad-signature", "unknown-client", "wrong-key"},
    "wrong round": {"wrong-round"},
    "wrong length": {"wrong-length", "bad-ciphertext", "too-large"},
    "empty": {"empty", "bad-ciphertext"},
    "forged signature": {"bad-signature"},
    "random": {"bad-framing"},
    "too large": {"too-large"},
    "garbage signed": {"bad-ciphertext"},
    "other client": {"wrong-client"},
}
# A batch carries no senders of its own: there, another client's valid contribution is simply that client's.
KINDS_IN_A_BATCH = sorted(set(NAMES) - {"other client"})


class Forger:
    """Makes faulty contributions of one client to one round, of a given kind, from a seed."""

    def __init__(self, federation, client, round_id, seed):
        self.federation, self.client, self.round_id = federation, client, round_id
        self.random = random.Random(seed)
        values = np.random.default_rng(seed).integers(-9, 9, LENGTH)
        self.ciphertexts = federation.encrypt(values)
        self.honest = self.seal(self.ciphertexts)
        self.stranger = SigningKey.create(federation.home / f"stranger-{client}-{round_id}.key")
        self.foreign = encrypt_integers(generate_keys(SMALL)[0], SMALL, values)

    def seal(self, ciphertexts, key=None, **header):
        header = self.federation.header(**{"client": self.client, "round_id": self.round_id, **header})
        return seal_contribution(header, ciphertexts, key or self.federation.keys[header.client])

    def flipped(self, data, start=0, end=None):
        out = bytearray(data)
        out[self.random.randrange(start, end or len(out))] ^= 1 << self.random.randrange(8)
        return bytes(out)

    def make(self, kind):
        pick, data = self.random.choice, self.honest
        if kind == "truncated":
            return data[: pick([0, 1, 7, 8, 12, 300, len(data) - 1, self.random.randrange(len(data))])]
        if kind == "bit-flipped":
            return self.flipped(data, 0, pick([8, 12, 400, len(data)]))
        if kind == "replayed":
            return self.seal(self.ciphertexts, **pick([{"round_id": "round-24"}, {"run_id": "run-0"}]))
        if kind == "foreign key":
            return pick(
                [
                    self.seal(self.ciphertexts, key=self.stranger),
                    self.seal(self.ciphertexts, key=self.stranger, client="stranger"),
                    self.seal(self.foreign, key_id="0" * 32),
                ]
            )
        if kind == "wrong round":
            return self.seal(
                self.ciphertexts, round_id=pick(["round-99", "", self.round_id + " ", "../", "\u2603"])
            )
        if kind == "wrong length":
            return pick(
                [
                    self.seal(self.ciphertexts, length=pick([0, -1, 99, 101, 10**30])),
                    self.seal(self.ciphertexts * 2),
                    self.seal([self.ciphertexts[0][:-8]]),
                ]
            )
        if kind == "empty":
            return pick([b"", self.seal([]), self.seal([b""])])
        if kind == "forged signature":
            return data[:-SIGNATURE_BYTES] + pick(
                [bytes(SIGNATURE_BYTES), self.random.randbytes(SIGNATURE_BYTES), b"\xff" * SIGNATURE_BYTES]
            )
        if kind == "random":
            return self.random.randbytes(self.random.randrange(1, 5000))
        if kind == "too large":
            return data + bytes(self.random.randrange(2000, 9999))
        if kind == "garbage signed":
            return self.seal([pick([b"\xff", b"\x80"]) * SMALL.ciphertext_bytes])
        other = pick([client for client in self.federation.keys if client != self.client])
        return self.seal(self.ciphertexts, client=other)


def forge(federation, round_id, count, kinds):
    """Faulty contributions of clients 3, 4 and 5 in turn, of all kinds in turn: (client, kind, bytes)."""
    forgers = [Forger(federation, f"client-{number}", round_id, number) for number in (3, 4, 5)]
    for number in range(count):
        forger, kind = forgers[number % 3], kinds[number // 3 % len(kinds)]
        yield forger.client, kind, forger.make(kind)


def test_each_of_a_thousand_malformed_contributions_is_a_named_error_of_its_sender(federation):
    seen = Counter()
    for client, kind, data in forge(federation, "round-0", MALFORMED, sorted(NAMES)):
        with pytest.raises(ContributionError) as caught:
            open_contribution(data, federation.expected(client=client), federation.roster)
        assert caught.value.client == client
        assert caught.value.code in NAMES[kind], kind
        assert caught.value.code in CODES
        seen[caught.value.code] += 1
    assert seen.total() == MALFORMED
    assert set(CODES) - set(seen) <= {"wrong-parameters", "bad-header", "duplicate", "conflicting"}


def test_rounds_go_on_without_the_malformed_ones(federation, vectors):
    honest = ["client-0", "client-1", "client-2"]
    expected_sum = sum(vectors[client] for client in honest)
    for number in range(20):
        round_id = f"round-{number}"
        good = [federation.contribute(client, vectors[client], round_id) for client in honest]
        bad = [data for _, _, data in forge(federation, round_id, MALFORMED // 20, KINDS_IN_A_BATCH)]
        batch = good + bad
        random.Random(number).shuffle(batch)
        result = federation.authority.decrypt("run-1", round_id, batch, 10**5)
        np.testing.assert_array_equal(result.values, expected_sum)
        assert result.contributors == ("client-0", "client-1", "client-2")
        assert len(result.rejected) == 50
        assert set(result.rejected.values()) <= set(CODES)
        result.check(federation.authority.public)


def test_with_too_few_left_the_round_fails_by_name_and_can_be_tried_again(federation, vectors):
    good = [federation.contribute(f"client-{n}", vectors[f"client-{n}"]) for n in range(3)]
    bad = [data for _, _, data in forge(federation, "round-0", 33, KINDS_IN_A_BATCH)]
    with pytest.raises(AggregationError, match="round-0 .*2 valid contributions, must be at least 3"):
        federation.authority.decrypt("run-1", "round-0", good[:2] + bad, 10**5)
    result = federation.authority.decrypt("run-1", "round-0", good + bad, 10**5)
    np.testing.assert_array_equal(result.values, sum(vectors[f"client-{n}"] for n in range(3)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: b"mosaic1\n" + tail)))
def test_arbitrary_bytes_never_crash(federation, data):
    with pytest.raises(ContributionError):
        open_contribution(data, federation.expected(), federation.roster)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 1000,
        b'{"a":' * 200,
        b"\xff\xfe",
        b'{"length":1e999}',
        b'{"length":NaN}',
        b'{"client":"client-3","client":"client-4"}',
        b'{"length":' + b"9" * 900 + b"}",
    ],
)
def test_headers_that_are_not_canonical_are_refused(federation, text):
    frame = b"mosaic1\n" + len(text).to_bytes(4, "little") + text + bytes(4) + bytes(SIGNATURE_BYTES)
    with pytest.raises(ContributionError) as caught:
        open_contribution(frame, federation.expected(), federation.roster)
    assert caught.value.code == "bad-header"


def test_a_copy_counts_once_and_a_contradiction_loses_its_client(federation, vectors):
    first = {client: federation.contribute(client, vectors[client]) for client in vectors}
    second = federation.contribute("client-1", vectors["client-1"])  # fresh encryption: other bytes
    batch = [*first.values(), first["client-0"], second]
    for order in (batch, batch[::-1]):
        accepted, rejected = accept_contributions(order, federation.expected(), federation.roster)
        assert [c.header.client for c in accepted] == [f"client-{n}" for n in (0, 2, 3, 4, 5)]
        assert rejected["client-1"] == "conflicting"
        assert sorted(rejected.values()) == ["conflicting", "duplicate"]


def test_a_forgery_does_not_cost_the_client_it_names(federation, vectors):
    honest = federation.contribute("client-0", vectors["client-0"])
    forged = honest[:-SIGNATURE_BYTES] + bytes(SIGNATURE_BYTES)
    accepted, rejected = accept_contributions([forged, honest], federation.expected(), federation.roster)
    assert [c.header.client for c in accepted] == ["client-0"]
    assert rejected == {"contribution-0": "bad-signature"}


def opened(federation, batch):
    accepted, _ = accept_contributions(batch, federation.expected(), federation.roster)
    return list(open_accepted(batch, accepted, federation.expected(), federation.roster))


def test_a_contribution_that_changes_after_it_was_accepted_is_not_added(federation, vectors):
    batch = [federation.contribute(client, vectors[client]) for client in vectors]
    accepted, _ = accept_contributions(batch, federation.expected(), federation.roster)
    batch[2] = federation.contribute("client-2", vectors["client-2"])  # fresh encryption: other bytes
    with pytest.raises(ContributionError, match="conflicting"):
        list(open_accepted(batch, accepted, federation.expected(), federation.roster))


def test_order_changes_neither_sum_nor_digest_and_foreign_sums_do_not_mix(federation, vectors):
    batch = [federation.contribute(client, vectors[client]) for client in vectors]
    forwards = opened(federation, batch)
    backwards = opened(federation, batch[::-1])
    assert sum_contributions(SMALL, forwards) == sum_contributions(SMALL, forwards[::-1])
    assert set_digest(forwards) == set_digest(backwards) != set_digest(forwards[1:])
    other = federation.contribute("client-0", vectors["client-0"], "round-1")
    other = open_contribution(other, federation.expected("round-1"), federation.roster)
    for mixture in ([*forwards[1:], other], [forwards[0], forwards[0]], []):
        with pytest.raises(AggregationError, match="encrypted sum"):
            sum_contributions(SMALL, mixture)


def test_ids_too_long_for_a_header_are_refused_by_the_sender(federation):
    with pytest.raises(AggregationError, match="shorter"):
        seal_contribution(federation.header("client-0", "r" * 2000), [], federation.keys["client-0"])
