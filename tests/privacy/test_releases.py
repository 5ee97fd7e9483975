from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import ledger_file, storage
from privacy.accounting import GaussianEvent
from privacy.errors import (
    BudgetError,
    LedgerDamaged,
    LedgerError,
    LedgerRollback,
    PrivacyError,
    ReleaseConflict,
)
from privacy.ledger import verify
from privacy.releases import ReleaseStore

from . import ledger_cases
from .ledger_cases import enrolled, event, make_plan, make_policy, open_ledger, produce

ROOT = Path(__file__).parents[2]


def bytes_file(home: Path) -> Path:
    return home / "releases" / "run-1" / "prototypes-0.bin"


def secret_file(home: Path) -> Path:
    return home / "secrets" / "run-1" / "prototypes-0.key"


def release(home: Path, inputs: bytes = b"inputs", made=produce, **changes) -> bytes:
    with enrolled(home) as ledger:
        store = ReleaseStore(home, ledger, "run-1")
        request = {"name": "prototypes", "round": 0, "event": event(), **changes}
        return store.release(inputs=inputs, produce=made, **request)


def never(noise):
    raise AssertionError("computed a second time")


def test_a_release_is_replayed_and_not_computed_again(tmp_path):
    first = release(tmp_path)
    assert release(tmp_path, made=never) == first
    assert release(tmp_path, round=1) != first
    assert release(tmp_path / "other") != first
    with open_ledger(tmp_path) as ledger:
        assert ledger.run("run-1").releases["prototypes"] == 2
    for path in (bytes_file(tmp_path), secret_file(tmp_path)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_other_inputs_are_refused(tmp_path):
    release(tmp_path)
    with pytest.raises(ReleaseConflict, match="prototypes' round 0 of run run-1: was made from other inputs"):
        release(tmp_path, b"inputs!")
    with pytest.raises(ReleaseConflict):
        release(tmp_path, event=GaussianEvent(5.0))


def test_what_is_not_planned_is_not_made(tmp_path):
    for change in ({"name": "weights"}, {"name": "../up"}, {"round": 3}, {"round": -1}):
        with pytest.raises(BudgetError):
            release(tmp_path, made=never, **change)
    with pytest.raises(BudgetError, match="noise multiplier"):
        release(tmp_path, made=never, event=GaussianEvent(1.0))
    assert not (tmp_path / "secrets").exists()


def test_a_spent_budget_makes_no_release(tmp_path):
    policy = make_policy(max_epsilon_lifetime=1.5 * make_plan().epsilon)
    with open_ledger(tmp_path) as ledger:
        for run in ("a", "b"):
            ledger.enrol(run, make_plan(), "config", policy)
        ReleaseStore(tmp_path, ledger, "a").release("counts", 0, b"", event("counts"), produce)
        with pytest.raises(BudgetError, match="budget already spent"):
            ReleaseStore(tmp_path, ledger, "b").release("counts", 0, b"", event("counts"), never)


def test_everything_is_durable_before_noise_is_drawn_and_before_bytes_leave(tmp_path, monkeypatch):
    """The order of the flushes: secret, ledger | produce | bytes, ledger."""
    order: list[str] = []
    flush = os.fsync

    def watch(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        order.append(name.split(".")[1] if name.startswith(".") else name)
        flush(descriptor)

    with enrolled(tmp_path) as ledger:
        store = ReleaseStore(tmp_path, ledger, "run-1")
        monkeypatch.setattr(storage.os, "fsync", watch)
        monkeypatch.setattr(ledger_file.os, "fsync", watch)

        def make(noise):
            order.append("produce")
            return produce(noise)

        store.release("prototypes", 0, b"", event(), make)
    steps = [step for step in order if step in {"prototypes-0", "ledger.jsonl", "produce"}]
    assert steps == ["prototypes-0", "ledger.jsonl", "produce", "prototypes-0", "ledger.jsonl"]


def test_a_failure_while_computing_is_charged_and_repeated_with_the_same_noise(tmp_path):
    seen = []

    def fails(noise):
        seen.append(produce(noise))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        release(tmp_path, made=fails)
    with open_ledger(tmp_path) as ledger:
        assert ledger.lifetime_epsilon() == make_plan().epsilon
    with pytest.raises(ReleaseConflict):
        release(tmp_path, b"inputs!")
    assert release(tmp_path) == seen[0]


def test_lost_bytes_come_back_only_if_they_are_the_same(tmp_path):
    first = release(tmp_path)
    bytes_file(tmp_path).unlink()
    assert release(tmp_path) == first
    bytes_file(tmp_path).unlink()
    with pytest.raises(ReleaseConflict, match="would be a new release"):
        release(tmp_path, made=lambda noise: produce(noise) + b"!")
    assert not bytes_file(tmp_path).exists()


def test_damage_is_found(tmp_path):
    release(tmp_path)
    for path, message in ((bytes_file(tmp_path), "stored bytes"), (secret_file(tmp_path), "stored secret")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(LedgerDamaged, match=message):
            release(tmp_path)
        path.write_bytes(whole)
    secret_file(tmp_path).unlink()
    with pytest.raises(LedgerError, match="its secret is gone"):
        release(tmp_path)


def test_a_ledger_that_lost_a_release_is_refused(tmp_path):
    with enrolled(tmp_path):
        old = (tmp_path / "ledger.jsonl").read_bytes()
    release(tmp_path)
    (tmp_path / "ledger.jsonl").write_bytes(old)
    with pytest.raises(LedgerRollback, match="is stored, but the ledger does not know it"):
        release(tmp_path)
    (tmp_path / "ledger.jsonl").unlink()
    with pytest.raises(LedgerRollback, match="releases were made"):
        open_ledger(tmp_path)


def test_a_sealed_run_forgets_its_secrets(tmp_path):
    release(tmp_path)
    with enrolled(tmp_path) as ledger:
        store = ReleaseStore(tmp_path, ledger, "run-1")
        store.seal()
        store.seal()
    assert not secret_file(tmp_path).exists() and bytes_file(tmp_path).exists()
    with pytest.raises(LedgerError, match="sealed"):
        release(tmp_path, made=never, round=1)


def test_a_seed_must_have_been_agreed_and_then_repeats(tmp_path):
    with enrolled(tmp_path) as ledger, pytest.raises(LedgerError, match="was not agreed"):
        ReleaseStore(tmp_path, ledger, "run-1", insecure_seed=1)
    made = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        home = tmp_path / folder / "client-0"
        with open_ledger(home) as ledger:
            policy = make_policy(allow_insecure_noise=True)
            ledger.enrol(f"run-{folder}", make_plan(), "config", policy, insecure_noise=True)
            store = ReleaseStore(home, ledger, f"run-{folder}", insecure_seed=seed)
            made.append(store.release("prototypes", 0, folder.encode(), event(), produce))
    assert made[0] == made[1] != made[2]


def test_secrets_are_in_no_ledger_and_no_message_of_an_error(tmp_path):
    release(tmp_path)
    secret = secret_file(tmp_path).read_bytes()
    ledger = (tmp_path / "ledger.jsonl").read_bytes()
    assert secret.hex().encode() not in ledger and secret not in bytes_file(tmp_path).read_bytes()
    with pytest.raises(ReleaseConflict) as caught:
        release(tmp_path, b"other")
    assert secret.hex() not in str(caught.value)


def test_equal_inputs_leave_different_marks_in_two_ledgers(tmp_path):
    """An unkeyed hash would let a reader of the ledger test guesses about the data."""
    marks = set()
    for home in (tmp_path / "a", tmp_path / "b"):
        release(home)
        with open_ledger(home) as ledger:
            marks.add(ledger.release_record("run-1", "prototypes", 0).inputs)
    assert len(marks) == 2


def test_leftovers_of_a_crash_are_swept(tmp_path):
    release(tmp_path)
    leftover = secret_file(tmp_path).parent / ".prototypes-1.key.abc.part"
    leftover.write_bytes(b"secret")
    release(tmp_path)
    assert not leftover.exists()


class Crash(BaseException):
    pass


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From now on the `step`-th flush raises in place of flushing, and so does every later one."""
    left = step

    def flush(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash

    monkeypatch.setattr(storage.os, "fsync", flush)


@pytest.mark.parametrize("step", range(16))
def test_a_crash_at_any_flush_changes_nothing(tmp_path, monkeypatch, step):
    seen = []

    def watched(noise):
        seen.append(produce(noise))
        return seen[-1]

    with enrolled(tmp_path) as ledger:
        store = ReleaseStore(tmp_path, ledger, "run-1")
        crash_at(monkeypatch, step)
        try:
            seen.append(store.release("prototypes", 0, b"inputs", event(), watched))
            crashed = False
        except Crash:
            crashed = True
        monkeypatch.undo()
    with open_ledger(tmp_path) as ledger:
        assert not seen or ledger.run("run-1").releases["prototypes"] == 1
    final = release(tmp_path)
    assert all(data == final for data in seen)
    with open_ledger(tmp_path) as ledger:
        assert ledger.run("run-1").releases["prototypes"] == 1
    assert crashed or step > 8


@given(
    st.lists(
        st.tuples(st.sampled_from(["prototypes", "counts", "other"]), st.integers(0, 3), st.integers(0, 1)),
        max_size=12,
    )
)
def test_any_order_of_requests_gives_each_release_once(tmp_path_factory, requests):
    home = tmp_path_factory.mktemp("home")
    expected: dict[tuple[str, int], tuple[int, bytes]] = {}
    with enrolled(home) as ledger:
        store = ReleaseStore(home, ledger, "run-1")
        for name, round, inputs in requests:
            planned = name != "other" and round < make_plan().release(name).rounds
            mechanism = GaussianEvent(4.0)
            try:
                data = store.release(name, round, bytes([inputs]), mechanism, produce)
                assert planned
                assert expected.setdefault((name, round), (inputs, data)) == (inputs, data)
            except ReleaseConflict:
                assert expected[name, round][0] != inputs
            except PrivacyError:
                assert not planned
        made = ledger.run("run-1").releases
        assert sum(made.values()) == len(expected)
    assert verify(home).problems == ()


def victim(output: Path, *homes: Path) -> subprocess.Popen[bytes]:
    """A process that makes all releases of these clients, one after the other, and notes their hashes."""
    command = [sys.executable, str(Path(ledger_cases.__file__)), *map(str, homes)]
    with output.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, env={**os.environ, "PYTHONPATH": str(ROOT)})


def hashes(output: Path) -> dict[str, str]:
    """Release -> hash, of the whole lines that a victim wrote."""
    lines = output.read_text().splitlines(keepends=True)
    return dict(line.split() for line in lines if line.endswith("\n") and " " in line)


def kill_and_resume(tmp_path: Path, kills: int, seed: int) -> None:
    """Kill a releasing process at random moments, `kills` times: what it gave once, it gives ever after."""
    rng = random.Random(seed)
    homes = [tmp_path / f"client-{i}" for i in range(16)]
    output = tmp_path / "output"
    seen: dict[str, str] = {}
    for _ in range(kills):
        process = victim(output, *homes)
        while not output.read_bytes().startswith(b"ready\n"):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.wait()
        for release_id, digest in hashes(output).items():
            assert seen.setdefault(release_id, digest) == digest
    assert seen, "killed too early to see anything"
    for home in homes:
        with open_ledger(home) as ledger:
            bought = ledger.run("run-1").releases if ledger.runs() else {}
        for name in ("prototypes", "counts"):
            given_out = sum(release_id.startswith(f"{home.name}/{name}-") for release_id in seen)
            assert bought.get(name, 0) >= given_out
    assert victim(output, *homes).wait() == 0
    final = hashes(output)
    assert len(final) == 4 * len(homes)
    assert seen.items() <= final.items()
    for home in homes:
        report = verify(home)
        assert report.problems == ()
        assert report.runs[0].releases == {"prototypes": 3, "counts": 1}


def test_a_killed_process_resumes_to_the_same_releases(tmp_path):
    kill_and_resume(tmp_path, kills=4, seed=1)


@pytest.mark.slow
def test_thirty_kills_at_random_moments(tmp_path):
    kill_and_resume(tmp_path, kills=30, seed=2)


def test_two_processes_at_once_get_the_same_bytes(tmp_path):
    homes = [tmp_path / f"client-{i}" for i in range(3)]
    for home in homes:
        open_ledger(home).close()
    outputs = [tmp_path / "one", tmp_path / "two"]
    processes = [victim(output, *homes) for output in outputs]
    assert [process.wait() for process in processes] == [0, 0]
    assert hashes(outputs[0]) == hashes(outputs[1])
    assert len(hashes(outputs[0])) == 4 * len(homes)
