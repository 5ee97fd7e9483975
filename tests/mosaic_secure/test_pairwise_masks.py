"""Runs whose contributions are under pairwise masks: the same sums, whoever drops out or is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mosaic_secure import masking as plan_of_masks
from mosaic_secure.client import answers, masking
from mosaic_secure.config import load_config
from mosaic_secure.engine import inprocess
from mosaic_secure.errors import UserError
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.messages import EnrolReply
from mosaic_secure.server import prototypes
from mosaic_secure.server.masking import Masking
from privacy.secagg.mask_book import MaskBook

from .tiny import TINY, Outcome, Wire, command, tiny_config, tiny_train

SUMS_ONLY = {
    "classifier.enabled": False,
    "generator.enabled": False,
    "experts.class_experts": False,
    "gate.enabled": False,
    "distill.enabled": False,
    "privacy.shares.prototypes": 0.9,
    "privacy.shares.counts": 0.1,
    "privacy.shares.classifier": 0.0,
    "privacy.shares.generator": 0.0,
    "prototypes.rounds": 1,
    "prototypes.gradient_share": 0.2,
    "clients.count": 4,
    "privacy.insecure_reproducible_noise": True,
}
MASKED = {**SUMS_ONLY, "privacy.pairwise_masks": True, "privacy.min_contributors": 3}
LOST = "client-1"
ROUNDS = ("centre-0", "moments-0", "gradient-0")


def model_of(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "global_model.safetensors")


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def decrypted(place: Path) -> dict[str, np.ndarray]:
    """What the authority decrypted, by round."""
    files = (place / "ledgers").glob("*/authority/sums/*/*/values.bin")
    return {file.parent.name: np.frombuffer(file.read_bytes(), dtype="<i8") for file in files}


@pytest.fixture
def unmasked(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Every sum that the server unmasks, by round."""
    found = {}
    real = Masking.unmask

    def listen(self: Masking, wanted: Any, total: np.ndarray, contributors: list[str]) -> np.ndarray:
        found[wanted.round_id] = real(self, wanted, total, contributors)
        return found[wanted.round_id]

    monkeypatch.setattr(Masking, "unmask", listen)
    return found


def train(place: Path, **changes: Any) -> Outcome:
    outcome = tiny_train(place, **{**MASKED, **changes})
    assert outcome.status == 0, outcome.err
    return outcome


def test_masks_change_no_sum_and_no_model_and_hide_the_sum_from_the_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmasked: dict[str, np.ndarray]
):
    """The same noise, on the same grid: the plain run gets that of the masked one.

    That a decrypted sum of hundreds of uniform integers is the true one is no chance to speak of.
    """
    train(tmp_path / "masked")
    largest = plan_of_masks.largest_sum(build_plan(load_config("digits", {**TINY, **MASKED})))
    with monkeypatch.context() as patch:
        patch.setattr(plan_of_masks, "largest_sum", lambda plan, params=None: largest)
        plain = {**SUMS_ONLY, "privacy.min_contributors": 3}
        assert tiny_train(tmp_path / "plain", **plain).status == 0
    known, hidden = decrypted(tmp_path / "plain"), decrypted(tmp_path / "masked")
    assert set(known) == set(hidden) == set(unmasked) == set(ROUNDS)
    for round_id in ROUNDS:
        np.testing.assert_array_equal(unmasked[round_id], known[round_id])
        assert (hidden[round_id] != known[round_id]).any()
    assert same(model_of(tmp_path / "masked" / "run"), model_of(tmp_path / "plain" / "run"))


def silent(real: Callable[..., Any], only: str | None = None) -> Callable[..., Any]:
    """The answer of everybody but one client, which fails; `only` in this round."""

    def answer(session: Any, request: Any) -> Any:
        party = session.home.party if hasattr(session, "home") else session.party
        if party == LOST and only in (None, getattr(request, "round_id", None)):
            raise RuntimeError("gone")
        return real(session, request)

    return answer


def without_keys(
    home: Any, request: Any, places: Any, real: Callable[..., EnrolReply] = answers.enrolled
) -> EnrolReply:
    """A client that enrols, and offers keys that it did not sign."""
    reply = real(home, request, places)
    return replace(reply, mask_keys_signature=bytes(64)) if home.party == LOST else reply


@pytest.mark.parametrize(
    ("where", "name", "stand_in", "contributes"),
    [
        (answers, "enrolled", without_keys, ()),
        (masking, "dealt", silent(masking.dealt), ()),
        (masking, "viewed", silent(masking.viewed), ()),
        (answers, "prototypes", silent(answers.prototypes), ()),
        (answers, "prototypes", silent(answers.prototypes, "moments-0"), ("centre-0", "gradient-0")),
        (masking, "unmasked", silent(masking.unmasked), ROUNDS),
    ],
    ids=[
        "before keys",
        "before shares",
        "before the view",
        "before contributing",
        "one round",
        "before unmasking",
    ],
)
def test_a_run_goes_on_without_a_client_that_drops_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unmasked: dict[str, np.ndarray],
    where: Any,
    name: str,
    stand_in: Callable[..., Any],
    contributes: tuple[str, ...],
):
    """The sum is that of the noised integers of those who contributed, to the last one."""
    noised, contributed = {}, {}
    mask, remove = MaskBook.mask, Masking.unmask

    def keep(self: MaskBook, round_id: str, values: np.ndarray) -> np.ndarray:
        noised[self._client, round_id] = values
        return mask(self, round_id, values)

    def listen(self: Masking, wanted: Any, total: np.ndarray, contributors: list[str]) -> np.ndarray:
        contributed[wanted.round_id] = contributors
        return remove(self, wanted, total, contributors)

    monkeypatch.setattr(MaskBook, "mask", keep)
    monkeypatch.setattr(Masking, "unmask", listen)
    monkeypatch.setattr(where, name, stand_in)
    train(tmp_path)
    for round_id in ROUNDS:
        clients = contributed[round_id]
        assert (LOST in clients) == (round_id in contributes) and len(clients) >= 3
        np.testing.assert_array_equal(unmasked[round_id], sum(noised[client, round_id] for client in clients))
    assert command("verify", tmp_path / "run").status == 0


def test_two_clients_too_few_end_the_run_and_it_is_finished_when_one_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = masking.unmasked

    def gone(session: Any, request: Any) -> Any:
        if session.home.party in ("client-1", "client-2") and request.round_id == "moments-0":
            raise RuntimeError("gone")
        return real(session, request)

    with monkeypatch.context() as patch:
        patch.setattr(masking, "unmasked", gone)
        assert "2 clients gave a share of a mask" in tiny_train(tmp_path, **MASKED).refusal
    resume(tmp_path)
    train(tmp_path / "whole")
    assert same(model_of(tmp_path / "run"), model_of(tmp_path / "whole" / "run"))


def resume(place: Path) -> None:
    places = ["--out", place / "run", "--ledger-dir", place / "ledgers"]
    outcome = command("train", "--resume", *places, "--json")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (Masking, "_certified"),
        (Masking, "_dealt"),
        (prototypes, "take_centre"),
        (prototypes, "take_moments"),
    ],
)
def test_a_server_that_is_killed_goes_on_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
):
    """Killed right after a step, before what it learnt is kept."""
    real = getattr(where, name)

    def die(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, name, die)
        assert tiny_train(tmp_path, **MASKED).status == 130
    resume(tmp_path)
    train(tmp_path / "whole")
    assert same(model_of(tmp_path / "run"), model_of(tmp_path / "whole" / "run"))


def test_secrets_of_masks_are_with_their_client_alone_while_a_run_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A share of a secret is another number: the secrets themselves are in no message and no other file."""
    wire = Wire(tmp_path / "ledgers")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inprocess, "InProcessGrid", wire.grid)
    monkeypatch.setattr(prototypes, "take_moments", stop)
    assert tiny_train(tmp_path, **{**MASKED, "clients.count": 3}).status == 130
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept = list((tmp_path / "ledgers").glob("*/client-*/masks/*/keys.json"))
    assert len(kept) == 3
    for path in kept:
        assert path.stat().st_mode & 0o777 == 0o600
        keys = json.loads(path.read_bytes())
        secrets = [keys["share_key"], *(text for pair in keys["rounds"].values() for text in pair.values())]
        for secret in secrets:
            for form in (secret.encode(), bytes.fromhex(secret)):
                assert not any(form in passed.data for passed in wire.passed)
                assert [file for file in files if form in file.read_bytes()] in ([path], [])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clients__count": 2}, "at least 3 clients must take part"),
        ({"privacy__min_contributors": 2}, "3 or more of the 3 clients must contribute"),
        ({"clients__count": 10, "privacy__min_contributors": 5}, "8 or more of the 10"),
        ({"clients__count": 6, "privacy__colluding_clients": 5}, "at least 7 clients must take part"),
        ({"method": "fedavg"}, "no encrypted sums to mask"),
        (
            {
                "clients__count": 6,
                "privacy__trust": "distributed",
                "privacy__allowed_dropouts": 3,
                "privacy__honest_clients": 2,
            },
            "privacy.allowed_dropouts",
        ),
    ],
)
def test_a_plan_whose_masks_would_be_of_no_use_is_refused_in_one_line(changes, named):
    with pytest.raises(UserError, match=named) as caught:
        tiny_config(**{"privacy__pairwise_masks": True, **changes})
    assert "privacy.pairwise_masks = true" in str(caught.value) and "\n" not in str(caught.value)


def test_sums_that_do_not_fit_under_the_masks_are_refused_in_one_line():
    changes = {"clients__count": 1000, "data__limit": "none", "privacy__epsilon": 0.01}
    with pytest.raises(UserError, match=r"pairwise_masks = true leaves sums up to \d+: overflow"):
        build_plan(tiny_config(privacy__pairwise_masks=True, **changes))


@pytest.mark.parametrize(("clients", "wide"), [(5, False), (50, True)])
def test_masks_cost_little_precision_and_wider_ciphertexts_only_where_they_must(clients, wide):
    """Noise is scaled to what a record may change on the grid: its own part, and rounding."""
    changes = {"clients.count": clients, "privacy.epsilon": 1.0}
    plain, masked = (
        build_plan(load_config("digits", {**changes, "privacy.pairwise_masks": on})) for on in (False, True)
    )
    assert (masked.ckks != plain.ckks) == wide
    assert masked.cost()["upload_bytes_per_client"] == plain.cost()["upload_bytes_per_client"] * (1 + wide)
    for before, after in zip(plain.rounds, masked.rounds, strict=True):
        units = (r.mechanism.target_std / r.mechanism.grid for r in (after, before))
        assert next(units) < 1.02 * next(units)


@pytest.mark.parametrize(("clients", "fewest"), [(3, 3), (4, 3), (5, 4), (10, 8), (50, 44)])
def test_as_few_contributors_are_asked_for_as_masks_allow(clients, fewest):
    config = tiny_config(privacy__pairwise_masks=True, clients__count=clients)
    assert config.min_contributors == fewest and config.honest_in_a_sum == fewest - 1
    assert tiny_config(clients__count=clients).min_contributors == max(2, clients // 2 + 1)
