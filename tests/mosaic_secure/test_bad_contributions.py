"""A client that sends what it must not send loses the round, by name; the others go on if they are enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_secure.client import answers
from mosaic_secure.protocol.messages import FineTuneReply, LocalTrainingReply, PrototypeReply
from mosaic_secure.server import prototypes
from privacy.identity import SigningKey
from privacy.secagg import packing
from privacy.secagg.contribution import ContributionHeader, seal_contribution

from .tiny import FINE_TUNED, command, tiny_train

BAD = "client-1"
ROUNDS = ["centre-0", "moments-0", *(f"gradient-{index}" for index in range(8))]
MANY = {
    "prototypes.rounds": 8,
    "prototypes.gradient_share": 0.5,
    "prototypes.second_moments": False,
}


class Villain:
    """Stands in for one client's answer to prototype rounds; what it has seen it can send again."""

    def __init__(self, tmp_path: Path) -> None:
        self._real = answers.prototypes
        self._seen: dict[tuple[str, str], bytes] = {}
        self._stranger = SigningKey.create(tmp_path / "stranger.key")
        self.deeds: dict[str, Callable[[str, bytes], bytes]] = {}

    def answer(self, session: Any, request: Any) -> PrototypeReply:
        """The honest reply of an honest client, or a deed."""
        party, where = session.home.party, request.round_id
        reply = self._real(session, request)
        self._seen[party, where] = reply.contribution
        deed = self.deeds.get(where) if party == BAD else None
        self._request, self._session = request, session
        return reply if deed is None else replace(reply, contribution=deed(where, reply.contribution))

    def truncate(self, _: str, data: bytes) -> bytes:
        return data[:-1]

    def empty(self, _: str, data: bytes) -> bytes:
        return b""

    def grow(self, _: str, data: bytes) -> bytes:
        return data + bytes(len(data))

    def flip(self, _: str, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 4
        return bytes(changed)

    def forge(self, _: str, data: bytes) -> bytes:
        return data[:-64] + bytes(64)

    def replay(self, where: str, _: bytes) -> bytes:
        before = ROUNDS[ROUNDS.index(where) - 1]
        return self._seen[BAD, before]

    def steal(self, where: str, _: bytes) -> bytes:
        return self._seen["client-0", where]

    def sign_as_stranger(self, where: str, data: bytes) -> bytes:
        return self._sealed(where, self._stranger)

    def shorten(self, where: str, _: bytes) -> bytes:
        return self._sealed(where, self._session.home.key, drop=1)

    def _sealed(self, where: str, key: SigningKey, drop: int = 0) -> bytes:
        plan, request = self._session.plan, self._request
        length = plan.round(where).length - drop
        header = ContributionHeader(BAD, request.run_id, where, request.key_id, plan.ckks.identifier, length)
        zeros = np.zeros(length, dtype=np.int64)
        return seal_contribution(
            header, packing.encrypt_integers(request.public_context, plan.ckks, zeros), key
        )


@pytest.fixture
def villain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Villain:
    made = Villain(tmp_path)
    monkeypatch.setattr(answers, "prototypes", made.answer)
    return made


def left_out(run: Path) -> dict[tuple[str, str], str]:
    """(stage, client) -> code, as the run's metrics tell."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["on"], row["of"]): row["value"] for row in rows if row["metric"] == "left out"}


def test_every_fault_has_a_name_and_loses_one_round(villain: Villain, tmp_path: Path):
    wanted = {
        "moments-0": (villain.truncate, "bad-framing"),
        "gradient-0": (villain.empty, "empty"),
        "gradient-1": (villain.grow, "too-large"),
        "gradient-2": (villain.flip, "bad-body"),
        "gradient-3": (villain.forge, "bad-signature"),
        "gradient-4": (villain.replay, "wrong-round"),
        "gradient-5": (villain.steal, "wrong-client"),
        "gradient-6": (villain.sign_as_stranger, "bad-signature"),
        "gradient-7": (villain.shorten, "wrong-length"),
    }
    villain.deeds = {where: deed for where, (deed, _) in wanted.items()}
    outcome = tiny_train(tmp_path, "--epsilon", "inf", **MANY)
    assert outcome.status == 0, outcome.err
    assert left_out(tmp_path / "run") == {(where, BAD): code for where, (_, code) in wanted.items()}
    for where, (_, code) in wanted.items():
        assert f"{where}: goes on without {BAD}: {code}" in outcome.err
    assert command("verify", tmp_path / "run").status == 0


def test_a_client_that_is_missed_ends_a_round_of_distributed_trust(villain: Villain, tmp_path: Path):
    villain.deeds = {"moments-0": villain.flip}
    outcome = tiny_train(tmp_path, "--epsilon", "inf", "--trust", "distributed")
    assert "moments-0: 2 valid contributions, the plan needs 3 (client-1: bad-body)" in outcome.refusal


def test_a_value_out_of_range_in_a_valid_ciphertext_aborts_the_round(monkeypatch, tmp_path: Path):
    real = packing.encrypt_integers

    def huge(context: bytes, params: Any, values: np.ndarray) -> list[bytes]:
        changed = values.copy()
        changed[3] = params.max_value
        return real(context, params, changed)

    monkeypatch.setattr(packing, "encrypt_integers", huge)
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert "round centre-0: the key authority aborted it" in outcome.refusal


def test_a_run_killed_after_a_sum_was_decrypted_comes_back_with_the_same_set(
    villain: Villain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The authority decrypts one set a round, so a client that was out stays out of that round."""
    villain.deeds = {"moments-0": villain.truncate}
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(prototypes, "take_moments", die)
        assert tiny_train(tmp_path, "--epsilon", "inf").status == 130
    villain.deeds = {}
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    outcome = command("train", "--resume", *places, "--json")
    assert outcome.status == 0, outcome.err
    sums = list((tmp_path / "ledgers").glob("*/authority/sums/*/moments-0/set.json"))
    assert json.loads(sums[0].read_bytes())["contributors"] == ["client-0", "client-2"]


def test_weights_that_are_none_lose_their_sender(monkeypatch, tmp_path: Path):
    real = answers.trained

    def bad(session: Any, request: Any) -> LocalTrainingReply:
        reply = real(session, request)
        spoilt = {name: np.full_like(value, np.nan) for name, value in reply.generator.items()}
        return replace(reply, generator=spoilt) if session.home.party == BAD else reply

    monkeypatch.setattr(answers, "trained", bad)
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert outcome.status == 0, outcome.err
    assert left_out(tmp_path / "run") == {("local-0", BAD): "malformed"}
    members = json.loads((tmp_path / "run" / "generators" / "index.json").read_bytes())
    assert BAD not in json.dumps(members) and "client-0" in json.dumps(members)


@pytest.mark.parametrize("needed", [2, 3])
def test_fine_tuned_weights_that_are_none_lose_their_sender(monkeypatch, tmp_path: Path, needed: int):
    real = answers.fine_tuned

    def bad(session: Any, request: Any) -> FineTuneReply:
        reply = real(session, request)
        spoilt = {name: np.full_like(value, np.nan) for name, value in reply.weights.items()}
        return replace(reply, weights=spoilt) if session.home.party == BAD else reply

    monkeypatch.setattr(answers, "fine_tuned", bad)
    changes = {**FINE_TUNED, "privacy.min_contributors": needed}
    outcome = tiny_train(tmp_path, "--epsilon", "inf", **changes)
    if needed == 3:
        assert "fine-tune-0: 2 clients are left, the plan needs 3 (client-1: malformed)" in outcome.refusal
        return
    assert outcome.status == 0, outcome.err
    assert f"fine-tune-0: goes on without {BAD}: malformed" in outcome.err
    assert left_out(tmp_path / "run") == {("fine-tune-0", BAD): "malformed"}


def test_counts_that_are_no_numbers_count_for_nothing(monkeypatch, tmp_path: Path):
    real = answers.prototypes

    def bad(session: Any, request: Any) -> PrototypeReply:
        reply = real(session, request)
        spoilt = {name: np.full_like(value, np.inf) for name, value in reply.counts.items()}
        return replace(reply, counts=spoilt) if session.home.party == BAD else reply

    monkeypatch.setattr(answers, "prototypes", bad)
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert outcome.status == 0, outcome.err


def test_a_client_that_breaks_is_left_out_and_tells_only_its_own_log(monkeypatch, tmp_path: Path):
    real = answers.prototypes

    def broken(session: Any, request: Any) -> PrototypeReply:
        if session.home.party == BAD:
            raise RuntimeError("a patient called Smith")
        return real(session, request)

    monkeypatch.setattr(answers, "prototypes", broken)
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert outcome.status == 0, outcome.err
    assert left_out(tmp_path / "run")["moments-0", BAD] == "failed"
    told = [p for p in tmp_path.rglob("*") if p.is_file() and b"Smith" in p.read_bytes()]
    assert [path.name for path in told] == ["failures.log"] and BAD in str(told[0])
    assert "Smith" not in outcome.err
