"""What this package lays over Flower's SuperNode: its pauses, its bell, and its leave-taking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.deployment import supernode


def test_only_the_pause_between_messages_is_the_long_one(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(supernode.time, "sleep", slept.append)
    clock = supernode._Clock()
    for seconds in (3, 0.5, 0.01):
        clock.sleep(seconds)
    assert slept == [supernode.ASKING_SECONDS, 0.1, 0.01]


@pytest.mark.parametrize(("run_id", "rings"), [(7, 1), (None, 0)])
def test_the_bell_rings_once_for_each_message_that_came_whole(run_id: int | None, rings: int):
    reading, writing = os.pipe()
    try:
        assert supernode._ringing(lambda **_: run_id, writing)(state=1) == run_id
        os.write(writing, b"end")
        assert os.read(reading, 10) == b"1" * rings + b"end"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_node_that_breaks_while_it_pulls_does_not_ring():
    def fails(**_: Any) -> int:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        supernode._ringing(fails, -1)()


def test_leave_is_taken_in_the_name_of_the_process_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    left: list[tuple[int, str]] = []
    monkeypatch.setattr(supernode, "_take_leave", lambda node, address, *_: left.append((node, address)))

    @contextlib.contextmanager
    def connect(*_: Any) -> Iterator[tuple[int, str]]:
        yield 4711, "connection"

    file = tmp_path / "node.id"
    for _ in range(2):
        with supernode._remembering(connect, file)("host:1", False, b"", ()) as connection:
            assert connection == (4711, "connection") and file.read_text() == "4711"
    assert left == [(4711, "host:1")]  # the first one had nobody before it
    file.write_text("no number")
    with supernode._remembering(connect, file)("host:1", False, b"", ()):
        assert len(left) == 1
