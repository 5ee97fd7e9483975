"""Child processes: they end with their parent, however that ends, and are started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mosaic_secure.deployment.leash import LEASH, Child

_SLEEPER = """
import time
from mosaic_secure.deployment.leash import hold
hold()
print("awake", flush=True)
time.sleep(600)
"""
_PARENT = """
import sys, time
from pathlib import Path
from mosaic_secure.deployment.leash import Child
child = Child("sleeper", [], Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sleeper.py").write_text(_SLEEPER)
    (tmp_path / "failer.py").write_text("raise SystemExit(3)")
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))
    return tmp_path


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_does_not_outlive_its_parent(modules: Path, how: signal.Signals):
    log = modules / "child.log"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(log)], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
        assert until(lambda: log.exists() and "awake" in log.read_text())
        assert is_alive(pid)
        parent.send_signal(how)
        parent.wait(10)
        assert until(lambda: not is_alive(pid), 10)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_a_child_is_started_again_but_one_that_keeps_failing_not_at_once(modules: Path):
    child = Child("failer", [], modules / "logs" / "child.log")
    child.start()
    try:
        assert until(lambda: child.status == 3)
        first = child._process
        assert child.keep() is False  # not yet: to say otherwise would be told to somebody
        assert until(child.keep) and child._process is not first
        assert until(lambda: child.status == 3)
        before = time.monotonic()
        second = child._process
        assert until(child.keep) and child._process is not second
        assert time.monotonic() - before > 0.2  # the pause grows with every failure in a row
    finally:
        child.stop()


def test_a_running_child_is_left_alone_and_stops_when_told(modules: Path):
    child = Child("sleeper", [], modules / "child.log", {"SOME": "thing"})
    child.start()
    pid = child.pid
    try:
        assert until(lambda: "awake" in (modules / "child.log").read_text())
        assert child.keep() is False and child.pid == pid and child.status is None
        assert (modules / "child.log").stat().st_mode & 0o777 == 0o600
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"SOME=thing" in environment and LEASH.encode() in environment
    finally:
        child.stop()
    assert child.pid is None and not is_alive(pid)
    child.stop()  # may be repeated
