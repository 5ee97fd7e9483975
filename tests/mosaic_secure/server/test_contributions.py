"""Contributions at the server: asked for, kept and sent on some at a time."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.protocol.messages import FineTuneReply, LocalTrainingReply
from mosaic_secure.server import contributions, encrypted_stage, prototypes, rounds
from mosaic_secure.server.contributions import Contributions, in_parts
from mosaic_secure.server.courier import Refused
from mosaic_secure.server.inspection import ExpectedModels
from mosaic_secure.server.local_stage import LocalStage
from privacy.errors import ContributionError
from privacy.secagg.spool import Spool

from ..tiny import command, tiny_train


@given(st.lists(st.integers(), max_size=60), st.integers(0, 2**30))
def test_parts_hold_everything_in_order_and_fit(items: list[int], bytes_each: int):
    parts = list(in_parts(items, bytes_each))
    assert [item for part in parts for item in part] == items
    for part in parts:
        most = contributions.MOST_BYTES if len(part) <= contributions.BUSY else contributions.PART_BYTES
        assert len(part) == 1 or len(part) * bytes_each <= most
    assert all(parts)


def run(place: Path, **changes: object) -> tuple[dict[str, bytes], list[str]]:
    """All weights that a run leaves, and the message of every line of its log."""
    changes = {"privacy.insecure_reproducible_noise": True, "privacy.min_contributors": 3, **changes}
    outcome = tiny_train(place, "--epsilon", "4", **changes)
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (place / "run" / "messages.jsonl").read_text().splitlines()]
    files = {str(f.relative_to(place / "run")): f.read_bytes() for f in place.glob("run/**/*.safetensors")}
    return files, [line["message"] for line in lines]


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier.rounds": 2},
        {"method": "fedavg", "fine_tune.rounds": 2, "fine_tune.steps": 2},
    ],
)
def test_one_reply_at_a_time_gives_the_same_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
):
    together, messages = run(tmp_path / "together", **changes)
    for limit in ("PART_BYTES", "MOST_BYTES"):
        monkeypatch.setattr(contributions, limit, 1)
    alive: list[int] = []
    for name in ("local_fault", "tuned_fault"):
        watched(monkeypatch, name, alive)
    apart, more = run(tmp_path / "apart", **changes)
    assert apart == together and "global_model.safetensors" in together
    assert set(alive) == {1}  # of clients' weights, those of one are in memory
    assert messages.count("ContributeRequest") == 0  # few come with what asks for their sum
    assert more.count("ContributeRequest") == 2 * more.count("DecryptRequest")
    for kind in ("DecryptRequest", "LocalTrainingRequest", "FineTuneRequest"):
        assert more.count(kind) == messages.count(kind)


def replies() -> list[object]:
    """The replies with weights that are alive."""
    return [item for item in gc.get_objects() if type(item) in (LocalTrainingReply, FineTuneReply)]


def watched(patch: pytest.MonkeyPatch, name: str, alive: list[int]) -> None:
    """Count the replies with weights that are alive whenever one of them is judged."""
    real, before = getattr(ExpectedModels, name), replies()  # those that other tests are made of

    def judge(*arguments: object, **options: object) -> object:
        gc.collect()
        alive.append(sum(all(reply is not other for other in before) for reply in replies()))
        return real(*arguments, **options)

    patch.setattr(ExpectedModels, name, judge)


def test_what_was_set_aside_is_gone_when_the_round_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At the authority once it has decrypted, at the server once what it learnt is kept."""
    seen: list[tuple[int, int]] = []

    def look(*arguments: object, **options: object) -> object:
        seen.append(tuple(len(paths) for paths in set_aside(tmp_path)))
        return learn(*arguments, **options)

    def look_and_stop(*_: object) -> None:
        look_after.append(set_aside(tmp_path))
        raise KeyboardInterrupt

    learn, look_after = prototypes.take_moments, []
    monkeypatch.setattr(prototypes, "take_moments", look)
    monkeypatch.setattr(LocalStage, "collect", look_and_stop)
    assert tiny_train(tmp_path, "--epsilon", "inf").status == 130
    assert seen == [(3, 0)] and look_after == [([], [])]


def test_a_round_that_fails_before_it_is_settled_leaves_nothing_at_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = Contributions.take

    def spoil(self: Contributions, client: str, data: bytes) -> None:
        real(self, client, data if client == "client-0" else data[:-1])

    monkeypatch.setattr(Contributions, "take", spoil)
    assert "1 valid contributions, the plan needs 2" in tiny_train(tmp_path, "--epsilon", "inf").refusal
    assert set_aside(tmp_path) == ([], [])


def test_settled_contributions_stay_until_the_round_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The authority may have promised to decrypt them and no others. What is damaged is asked for again."""
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "sum_contributions", lambda *_: [b"another sum"])
        outcome = tiny_train(tmp_path, "--epsilon", "inf")
        assert "the authority's sum is not over these contributions" in outcome.refusal
    kept, at_the_authority = set_aside(tmp_path)
    assert len(kept) == 3 and at_the_authority == []
    kept[0].write_bytes(b"damaged")
    kept[1].unlink()
    outcome = command(
        "train", "--resume", "--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers", "--json"
    )
    assert outcome.status == 0, outcome.err
    assert set_aside(tmp_path) == ([], [])


def test_what_the_authority_has_refused_for_good_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rounds, "_decrypted", lambda *_: Refused("failed"))
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert "the key authority aborted it (failed)" in outcome.refusal
    assert set_aside(tmp_path) == ([], [])


def test_only_what_is_damaged_of_a_settled_set_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And counts stay those of the first attempt, whatever comes with it."""
    same = {"privacy.insecure_reproducible_noise": True}
    tiny_train(tmp_path / "plain", "--epsilon", "4", **same)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "sum_contributions", lambda *_: [b"another sum"])
        assert "not over these contributions" in tiny_train(tmp_path, "--epsilon", "4", **same).refusal
    set_aside(tmp_path)[0][0].unlink()
    asked: list[int] = []
    real = encrypted_stage.EncryptedStage._ask

    def ask(self, wanted, key, learner, kept, clients):
        asked.append(len(clients))
        brought = real(self, wanted, key, learner, kept, clients)
        return {client: {name: a + 1e6 for name, a in arrays.items()} for client, arrays in brought.items()}

    monkeypatch.setattr(encrypted_stage.EncryptedStage, "_ask", ask)
    outcome = command(
        "train", "--resume", "--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers", "--json"
    )
    assert outcome.status == 0, outcome.err
    assert asked[0] == 1 and set(asked[1:]) == {3}
    models = [place / "run" / "global_model.safetensors" for place in (tmp_path, tmp_path / "plain")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_contribution_that_is_sound_clears_the_fault_of_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Such as one that was damaged on disk, and came again."""

    def opened(data: bytes, *_: object) -> SimpleNamespace:
        if data == b"damaged":
            raise ContributionError("malformed", "client-0", "damaged")
        return SimpleNamespace(header=None, digest=b"")

    monkeypatch.setattr(contributions, "open_contribution", opened)
    monkeypatch.setattr(contributions, "replace", lambda expected, **_: expected)
    kept = Contributions(tmp_path / "aside", None, {})
    kept.take("client-0", b"damaged")
    assert kept.faults == {"client-0": "malformed"} and kept.valid == []
    kept.take("client-0", b"sound")
    assert kept.faults == {} and kept.valid == ["client-0"]


def set_aside(place: Path) -> tuple[list[Path], list[Path]]:
    """Contributions on the disks of server and authority."""
    names = "[0-9a-f]" * 64
    return list((place / "run").rglob(f"*.scratch/{names}")), list((place / "ledgers").rglob(names))


def test_contributions_are_set_aside_where_that_test_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, seen = rounds.sum_contributions, []

    def look(*arguments: object) -> list[bytes]:
        seen.append([len(paths) for paths in set_aside(tmp_path)])
        return real(*arguments)

    monkeypatch.setattr(rounds, "sum_contributions", look)
    monkeypatch.setattr(Spool, "clear", lambda _: None)
    assert tiny_train(tmp_path, "--epsilon", "inf").status == 0
    assert seen[0] == [3, 3]
