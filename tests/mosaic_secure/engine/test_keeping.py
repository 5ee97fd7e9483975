from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict

from mosaic_secure.engine.inprocess import InProcessGrid
from mosaic_secure.engine.keeping import WorkerKeeper

APP = "tiny_app:app"


def ask(node: int) -> Message:
    return Message(RecordDict({"question": ConfigRecord({"text": "?"})}), node, "query.echo")


def parties_seen(keeper: WorkerKeeper, party: str, size: int = 1) -> tuple[set[str], list[int]]:
    """One run on kept workers: who its nodes were, and which processes answered."""
    nodes = {1000 + i: {"party": f"{party}-{i}", "partition-id": i} for i in range(2)}
    with InProcessGrid(nodes, APP, workers=size, pool=keeper.pool(APP, size, 1)) as grid:
        asked = [
            Message(RecordDict({"question": ConfigRecord({"text": "?"})}), node, "query.echo")
            for node in nodes
        ]
        replies = grid.send_and_receive(asked)
        return {str(reply.content["answer"]["party"]) for reply in replies}, sorted(grid.worker_pids)


def ended(pid: int) -> bool:
    """Whether a process ends, with all its threads: the last one closes its sockets."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1:
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_the_next_run_has_the_same_workers_and_its_own_nodes_and_they_end_with_the_block():
    with WorkerKeeper() as keeper:
        first, before = parties_seen(keeper, "first")
        second, after = parties_seen(keeper, "second")
        assert first == {"first-0", "first-1"} and second == {"second-0", "second-1"}
        assert before == after and len(before) == 1
    assert all(ended(pid) for pid in before)


def test_a_larger_run_gets_more_workers():
    with WorkerKeeper() as keeper:
        _, one = parties_seen(keeper, "first")
        assert keeper.pool(APP, 2, 1).wait_ready(60)
        assert len(keeper.pool(APP, 2, 1).pids) == 2
        assert all(ended(pid) for pid in one)


def test_work_that_an_interrupted_run_left_behind_reaches_no_other_run():
    with WorkerKeeper() as keeper:
        nodes = {1000: {"party": "first-0", "partition-id": 0}}
        with InProcessGrid(nodes, APP, workers=1, pool=keeper.pool(APP, 1, 1)) as grid:
            grid.push_messages([ask(1000)])
        found, _ = parties_seen(keeper, "second")
        assert found == {"second-0", "second-1"}


def test_a_worker_that_died_between_two_runs_is_replaced():
    with WorkerKeeper() as keeper:
        _, (pid,) = parties_seen(keeper, "first")
        os.kill(pid, signal.SIGKILL)
        assert ended(pid)
        found, pids = parties_seen(keeper, "second")
        assert found == {"second-0", "second-1"} and pid not in pids
