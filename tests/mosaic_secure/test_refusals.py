"""Bad input to a real run: one line with what is wrong and what would be right, status 2, nothing spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_secure.data.datasets import read_train
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.server.coordinator import Coordinator

from .tiny import CLIENTS, Outcome, command, tiny_config, tiny_options, tiny_train


def homes(place: Path) -> list[Path]:
    return [place / "ledgers" / "digits-3" / client for client in CLIENTS]


def spent(place: Path) -> int:
    """Releases charged in all ledgers together."""
    count = 0
    for home in homes(place):
        for line in (home / "ledger.jsonl").read_text().splitlines() if home.exists() else ():
            count += json.loads(line)["kind"] == "release"
    return count


def again(place: Path, *options: object, **changes: Any) -> Outcome:
    """A second run with the same parties."""
    places = ["--out", place / "second", "--ledger-dir", place / "ledgers"]
    return command("train", *tiny_options(**changes), *places, *options, "--json")


@pytest.fixture
def used(finished, tmp_path: Path) -> Path:
    """A copy of the place of the finished run and its parties."""
    shutil.copytree(finished.path, tmp_path / "run")
    shutil.copytree(finished.ledgers, tmp_path / "ledgers")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--config", "fashion_mnist", "--data-root", "/nowhere"], "/nowhere"),
        (["--config", "pneumonia", "--data-root", "/nowhere"], "/nowhere"),
        (
            ["--config", "folder", "--set", "data.path=/nowhere", "--set", "data.visibility=public"],
            "/nowhere",
        ),
        (["--device", "cuda:77"], "cuda:77"),
        (["--set", "data.limit=240", "--set", "partition.min_records=500"], "needs 2500 records"),
        (["--epsilon", "nan"], "privacy.epsilon"),
        (["--epsilon", "-1"], "privacy.epsilon"),
        (["--delta", "0"], "privacy.delta"),
        (["--delta", "nan"], "privacy.delta"),
        (["--set", "clients.architectures=mpl"], "mpl"),
        (["--set", "generator.architecture=gan"], "gan"),
        (["--set", "global_model.architecture=resnet"], "resnet"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_begins(tmp_path: Path, options, named: str):
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    outcome = command("train", *options, *places)
    assert named in outcome.refusal
    assert spent(tmp_path) == 0


def test_a_place_that_is_taken_is_refused(used: Path, tmp_path: Path):
    assert "already holds a run" in tiny_train(used).refusal
    (tmp_path / "run2").mkdir()
    (tmp_path / "run2" / "thesis.txt").write_text("mine")
    taken = command("train", "--out", tmp_path / "run2", "--ledger-dir", tmp_path / "ledgers")
    assert "not empty" in taken.refusal
    assert (tmp_path / "run2" / "thesis.txt").read_text() == "mine"


def test_a_class_that_nobody_has_is_told_before_anything_is_spent(tmp_path: Path):
    labels = read_train(tiny_config().data).labels
    rows = np.flatnonzero(labels != 3)
    parts = {name: rows[index::3].tolist() for index, name in enumerate(CLIENTS)}
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    outcome = tiny_train(tmp_path, partition__kind="given", partition__path=tmp_path / "parts.json")
    assert "class" in outcome.refusal and "3" in outcome.refusal
    assert spent(tmp_path) == 0


def test_a_public_client_with_too_few_records_is_named_before_anything_is_spent(tmp_path: Path):
    count = len(read_train(tiny_config().data).labels)
    parts = {"client-0": [0, 1, 2], "client-1": list(range(3, 100)), "client-2": list(range(100, count))}
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    outcome = tiny_train(tmp_path, partition__kind="given", partition__path=tmp_path / "parts.json")
    assert "client-0" in outcome.refusal and "3" in outcome.refusal
    assert spent(tmp_path) == 0


def test_a_budget_that_is_spent_is_spent(tmp_path: Path):
    cap = {"privacy.max_epsilon_lifetime": 6}
    assert tiny_train(tmp_path, **cap).status == 0
    before = spent(tmp_path)
    line = again(tmp_path, **cap).refusal
    assert "client-0: budget already spent" in line
    assert spent(tmp_path) == before == 3 * 5
    assert not (tmp_path / "second").exists()  # nothing began: the place is free for another try
    assert again(tmp_path, "--resume", **cap).status == 2  # nor by another door
    assert spent(tmp_path) == before


def test_a_cap_for_one_run_and_a_release_that_is_not_allowed(used: Path):
    policy = homes(used)[1] / "policy.toml"
    text = policy.read_text()
    before = spent(used)
    policy.write_text(text.replace('"generator", ', ""))
    line = again(used).refusal
    assert "client-1" in line and "generator" in line
    assert not (used / "second").exists()
    policy.write_text(text.replace("max_epsilon_per_run = inf", "max_epsilon_per_run = 3.5"))
    line = again(used).refusal
    assert "client-1" in line and "3.5" in line
    assert not (used / "second").exists()
    policy.write_text(text.replace("max_epsilon_per_run = inf", "max_epsilon = 3.5"))
    line = again(used).refusal
    assert "policy.toml" in line and "max_epsilon" in line
    assert spent(used) == before


def test_a_ledger_that_was_rolled_back_alone_is_refused(used: Path):
    """The client's own anchor tells."""
    ledger = homes(used)[1] / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:4]))
    line = again(used).refusal
    assert "client-1" in line and "ledger" in line


def test_a_client_that_was_rolled_back_as_a_whole_is_refused_by_the_authority(finished, used: Path):
    """Ledger and anchor are both of yesterday; the key authority remembers."""
    assert again(used).status == 0
    shutil.rmtree(used / "second")
    for home in homes(used)[:2]:
        shutil.rmtree(home)
        shutil.copytree(finished.ledgers / "digits-3" / home.name, home)
    line = again(used).refusal
    assert "client-0: ledger" in line and "client-1: ledger" in line


def test_a_damaged_ledger_is_refused_by_line(used: Path):
    ledger = homes(used)[2] / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"release":"counts"', '"release":"counts_"', 1))
    line = again(used).refusal
    assert "client-2" in line and "line" in line


def test_a_damaged_identity_and_a_changed_roster_are_refused(used: Path):
    key = homes(used)[0] / "identity.key"
    data = key.read_bytes()
    key.write_bytes(data[:-1])
    assert "identity.key" in again(used).refusal
    key.write_bytes(bytes(32))
    assert again(used).status == 2


@pytest.fixture
def interrupted(stopped: Path, tmp_path: Path) -> Path:
    """A copy of a run that was stopped before its last stage, and of its parties."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def stop(_: Coordinator) -> None:
        raise KeyboardInterrupt

    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "finish", stop)
        outcome = tiny_train(place)
    assert outcome.status == 130 and "resume with: mosaic-secure train --resume" in outcome.err
    return place


def resume(place: Path, *options: object) -> Outcome:
    places = ["--out", place / "run", "--ledger-dir", place / "ledgers"]
    return command("train", "--resume", *places, *options, "--json")


def test_a_damaged_checkpoint_is_named_and_costs_nothing(interrupted: Path):
    before = spent(interrupted)
    stages = sorted((interrupted / "run" / "checkpoints").glob("*.stage"))
    assert {"enrol", "centre-0", "moments-0", "local-0", "assembled"} <= {stage.stem for stage in stages}
    for stage in stages:
        data = stage.read_bytes()
        if stage.stem in ("enrol", "moments-0", "local-0.client-1", "assembled"):
            stage.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if len(data) % 2 else data[: len(data) // 2])
            line = resume(interrupted).refusal
            assert stage.name in line and "damaged" in line
            stage.write_bytes(data)
    (interrupted / "run" / "checkpoints" / "local-0.client-1.stage").unlink()  # which is the advice
    outcome = resume(interrupted)
    assert outcome.status == 0, outcome.err
    assert spent(interrupted) == before == 3 * 5


def test_a_run_is_not_resumed_as_another_one(interrupted: Path):
    assert "epsilon" in resume(interrupted, *tiny_options(), "--epsilon", "2").refusal
    (interrupted / "run" / "manifest.json").write_bytes(b"{")
    assert "manifest.json" in resume(interrupted).refusal


def test_a_client_that_has_lost_its_ledger_takes_no_further_part(interrupted: Path):
    shutil.rmtree(homes(interrupted)[1])
    outcome = resume(interrupted)
    assert outcome.status == 0 and "goes on without client-1: ledger" in outcome.err
    excerpts = json.loads((interrupted / "run" / "ledgers.json").read_bytes())["excerpts"]
    assert set(excerpts) == {"client-0", "client-2"}


def test_two_at_once_in_one_place(interrupted: Path):
    with RunDirectory.create(interrupted / "run", resume=True):
        assert "another process" in resume(interrupted).refusal
