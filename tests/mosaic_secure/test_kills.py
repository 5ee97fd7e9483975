"""SIGKILL at any moment, then resume: nothing is released or charged twice, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.runs.verify import verify as verify_run
from privacy.ledger import verify as verify_ledger

from . import kill_runs
from .tiny import CLIENTS, SAMPLED, TINY, tiny_config

ROOT = Path(__file__).parents[2]
SEED = 11
RELEASES = {"counts-0", "centre-0", "moments-0", "classifier-0", "generator-0"}
OF_IMAGES = {"image_centre-0", "image_means-0", "image_moments-0", "image_class_moments-0"}


class Runner:
    """A process that makes attempts at tiny runs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, kill_runs.__file__],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attempt(self, config: RunConfig, place: Path, **when: Any) -> str:
        """One attempt; "killed", "done", or the error."""
        order = {"config": config.to_dict(), "place": str(place), **when}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(timeout=20)


@dataclass(frozen=True)
class Trial:
    """One configuration, and under `reference` a run of it that nothing disturbed."""

    runner: Runner
    config: RunConfig
    reference: Path

    def attempt(self, place: Path, **when: Any) -> str:
        """See `Runner.attempt`."""
        return self.runner.attempt(self.config, place, **when)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trial, Trial]]:
    """With noise from the operating system, and with noise from the seed, of which two runs are the same."""
    runner = Runner()
    made = []
    for reproducible in (False, True):
        config = tiny_config(privacy__insecure_reproducible_noise=reproducible)
        place = tmp_path_factory.mktemp("reference")
        assert runner.attempt(config, place, here=True) == "done"
        made.append(Trial(runner, config, place))
    yield made[0], made[1]
    runner.close()


@pytest.fixture
def strong(trials: tuple[Trial, Trial]) -> Trial:
    return trials[0]


@pytest.fixture
def repeatable(trials: tuple[Trial, Trial]) -> Trial:
    return trials[1]


def homes(place: Path) -> list[Path]:
    return [place / "ledgers" / "digits-3" / client for client in CLIENTS]


def entries(home: Path) -> list[dict[str, Any]]:
    """Whole lines of a ledger; a torn last line does not count."""
    path = home / "ledger.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def charged(home: Path) -> Counter[str]:
    """How often each release is charged."""
    made = [entry["body"] for entry in entries(home) if entry["kind"] == "release"]
    return Counter(f"{body['release']}-{body['round']}" for body in made)


def released(place: Path) -> dict[Path, bytes]:
    """All bytes that clients hold as released."""
    return {path: path.read_bytes() for home in homes(place) for path in home.glob("releases/*/*.bin")}


def check_moment(place: Path) -> dict[Path, bytes]:
    """What must hold at any moment: whatever is released is charged, once."""
    made = released(place)
    for home in homes(place):
        counts = charged(home)
        assert {path.stem for path in made if home in path.parents} <= set(counts)
        assert set(counts.values()) <= {1}
    return made


def check_end(place: Path, seen: dict[Path, bytes]) -> None:
    """What must hold at the end: all releases made, each charged once, none replaced, the run sealed."""
    now = check_moment(place)
    for path, data in seen.items():
        assert now[path] == data, path
    for home in homes(place):
        assert dict(charged(home)) == dict.fromkeys(RELEASES, 1)
        report = verify_ledger(home / "ledger.jsonl")
        assert not report.problems
    assert verify_run(place / "run").passed


def killed_and_resumed(trial: Trial, place: Path, moments: list[dict[str, Any]]) -> int:
    """Kill the run at these moments, each counted from a resume, then let it finish; how often it died."""
    seen: dict[Path, bytes] = {}
    deaths = 0
    for when in moments:
        outcome = trial.attempt(place, **when)
        assert outcome in ("killed", "done"), outcome
        deaths += outcome == "killed"
        now = check_moment(place)
        for path, data in seen.items():
            assert now[path] == data, path
        seen.update(now)
    assert trial.attempt(place) == "done"
    check_end(place, seen)
    return deaths


def results(place: Path) -> dict[str, bytes]:
    """Every file of a run that depends on the releases alone."""
    names = ["global_model.safetensors", "model.json", "metrics.jsonl", "membership.npz"]
    run = place / "run"
    kept = ("classifiers", "experts", "generators", "sampler")
    folders = sorted(path for name in kept for path in run.glob(f"{name}/*"))
    found = {str(path.relative_to(run)): path.read_bytes() for path in [*(run / n for n in names), *folders]}
    # A run that was interrupted has asked for some things twice.
    rows = [line for line in found["metrics.jsonl"].splitlines() if json.loads(line)["on"] != "messages"]
    return found | {"metrics.jsonl": b"\n".join(rows)}


def test_releases_survive_kills_unchanged_and_are_charged_once(strong: Trial, tmp_path: Path):
    moments = random.Random(SEED)
    when = [{"seconds": moments.uniform(0.03, 0.5)} for _ in range(4)]
    assert killed_and_resumed(strong, tmp_path, when) >= 2


def test_a_run_killed_at_flushes_ends_like_one_that_was_not(repeatable: Trial, tmp_path: Path):
    moments = random.Random(SEED)
    when = [{"flush": moments.randint(1, 90)} for _ in range(3)]
    assert killed_and_resumed(repeatable, tmp_path, when) == 3
    assert results(tmp_path) == results(repeatable.reference)


@pytest.mark.parametrize("stage", ["moments-0", "local-0", "assembled"])
def test_a_run_killed_after_a_stage_ends_like_one_that_was_not(repeatable: Trial, tmp_path: Path, stage: str):
    assert repeatable.attempt(tmp_path, file=f"run/checkpoints/{stage}.stage") == "killed"
    assert repeatable.attempt(tmp_path) == "done"
    assert results(tmp_path) == results(repeatable.reference)


@pytest.mark.slow
def test_a_run_killed_between_rounds_of_images_ends_like_one_that_was_not(repeatable: Trial, tmp_path: Path):
    config = load_config("digits", {**TINY, **SAMPLED, "privacy.insecure_reproducible_noise": True})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert repeatable.runner.attempt(config, whole) == "done"
    for stage in ("image_centre-0", "image_means-0", "image_moments-0", "image_class_moments-0"):
        when = {"file": f"run/checkpoints/{stage}.stage"}
        assert repeatable.runner.attempt(config, broken, **when) == "killed"
    assert repeatable.runner.attempt(config, broken) == "done"
    for home in homes(broken):
        assert dict(charged(home)) == dict.fromkeys(RELEASES | OF_IMAGES, 1)
    assert results(broken) == results(whole)


def test_resuming_copies_of_one_state_gives_one_result(strong: Trial, tmp_path: Path):
    """Once every release is made, nothing random is left."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert strong.attempt(first, file="run/checkpoints/local-0.stage") == "killed"
    shutil.copytree(first, second)
    assert strong.attempt(first) == "done" and strong.attempt(second) == "done"
    assert results(first) == results(second)
    assert results(first) != results(strong.reference)  # the noise was another


def test_resuming_a_finished_run_changes_nothing(strong: Trial, tmp_path: Path):
    shutil.copytree(strong.reference, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert strong.attempt(tmp_path / "copy") == "done"
    assert before == {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_thirty_kills_at_random_moments(strong: Trial, repeatable: Trial, tmp_path: Path):
    moments = random.Random(SEED + 1)
    deaths = 0
    for number in range(10):
        for trial in (strong, repeatable):
            place = tmp_path / f"{number}-{trial is strong}"
            place.mkdir()
            when = [{"seconds": moments.uniform(0.02, 0.6)} for _ in range(3)]
            deaths += killed_and_resumed(trial, place, when)
            if trial is repeatable:
                assert results(place) == results(trial.reference)
    assert deaths >= 30


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 5))
def test_a_kill_at_every_flush(repeatable: Trial, tmp_path: Path, first: int):
    number = first - 4
    while True:
        number += 4
        place = tmp_path / str(number)
        place.mkdir()
        outcome = repeatable.attempt(place, flush=number)
        seen = check_moment(place)
        if outcome == "done":
            break
        assert outcome == "killed" and repeatable.attempt(place) == "done"
        check_end(place, seen)
        assert results(place) == results(repeatable.reference)
        shutil.rmtree(place)
    assert number > 100
