from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from mosaic_secure.engine.inprocess import InProcessGrid
from mosaic_secure.engine.pool import EngineError
from mosaic_secure.protocol.codec import from_flower, to_flower
from mosaic_secure.protocol.messages import LocalTrainingRequest

LIGHT = ("flwr.clientapp", "flwr.common.serde")


def table(count: int, **more: object) -> dict[int, dict[str, object]]:
    return {1000 + i: {"party": f"client-{i}", "partition-id": i, **more} for i in range(count)}


def grid(count: int = 3, workers: int = 2, app: str = "tiny_app:app", **more: object) -> InProcessGrid:
    return InProcessGrid(table(count), app, workers=workers, preload=LIGHT, **more)


@pytest.fixture(scope="module")
def shared_path():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parent))
    yield
    patch.undo()


@pytest.fixture(scope="module", params=[0, 2], ids=["calling-process", "workers"])
def running(request, shared_path):
    with grid(workers=request.param, run_config={"name": "trial"}) as made:
        yield made


def ask(node: int, what: str, **values: object) -> Message:
    return Message(RecordDict({"question": ConfigRecord(values)}), node, f"query.{what}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_replies_come_in_the_order_of_the_requests_with_each_nodes_own_context(running):
    nodes = list(running.get_node_ids())
    replies = running.send_and_receive([ask(node, "echo", text=f"to {node}") for node in reversed(nodes)])
    got = [dict(reply.content["answer"]) for reply in replies]
    assert [item["node"] for item in got] == nodes[::-1]
    assert [item["text"] for item in got] == [f"to {node}" for node in reversed(nodes)]
    assert [item["party"] for item in got] == [f"client-{i}" for i in (2, 1, 0)]
    assert {item["run"] for item in got} == {"trial"}
    assert [reply.metadata.src_node_id for reply in replies] == nodes[::-1]


def test_messages_of_the_protocol_pass_unchanged(running):
    values = np.random.default_rng(0).normal(size=(300, 400))
    request = LocalTrainingRequest(run_id="r", round=0, broadcast={"a": values})
    (reply,) = running.send_and_receive([to_flower(request, 1001, group="local")])
    back = from_flower(LocalTrainingRequest, reply)
    np.testing.assert_array_equal(back.broadcast["a"], values)
    assert reply.metadata.group_id == "local"


def test_state_stays_with_its_node_and_a_failure_changes_nothing(running):
    def values(**question: object) -> list[int | None]:
        replies = running.send_and_receive([ask(node, "count", **question) for node in (1000, 1002)])
        return [None if reply.has_error() else reply.content["answer"]["value"] for reply in replies]

    assert values() == [1, 1]
    assert values(fail=True) == [None, None]
    assert values() == [2, 2]
    (other,) = running.send_and_receive([ask(1001, "count")])
    assert other.content["answer"]["value"] == 1


def test_an_error_reply_says_nothing_about_the_error(running):
    (reply,) = running.send_and_receive([ask(1000, "count", fail=True)])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reply.error.reason == "failed"
    (unknown,) = running.send_and_receive([ask(1000, "nothing")])
    assert unknown.error.reason == "failed"


def test_several_messages_to_one_node_run_one_after_another(running):
    replies = running.send_and_receive([ask(1000, "count") for _ in range(3)])
    first, second, third = (reply.content["answer"]["value"] for reply in replies)
    assert (second, third) == (first + 1, first + 2)


def test_push_and_pull_give_each_reply_once(running):
    ids = list(running.push_messages([ask(1000, "echo", text="x"), ask(1001, "echo", text="y")]))
    got = []
    assert until(lambda: got.extend(running.pull_messages(ids)) or len(got) == 2)
    assert list(running.pull_messages(ids)) == []
    assert {reply.metadata.reply_to_message_id for reply in got} == set(ids)


def test_an_unknown_node_is_refused(running):
    with pytest.raises(ValueError, match="no node 5"):
        running.push_messages([ask(5, "echo", text="x")])


def test_one_message_object_is_not_pushed_twice_at_a_time():
    with grid() as made, pytest.raises(ValueError, match="make a new one"):
        made.push_messages([ask(1000, "echo", text="x")] * 2)


def test_the_reason_of_a_failure_is_noted_in_the_partys_home_alone(tmp_path):
    nodes = table(1, home=str(tmp_path))
    with InProcessGrid(nodes, "tiny_app:app", workers=0) as made:
        made.send_and_receive([ask(1000, "count", fail=True)])
    note = tmp_path / "failures.log"
    assert "4711" in note.read_text()
    assert note.stat().st_mode & 0o777 == 0o600


def test_different_nodes_run_at_the_same_time_in_different_processes_with_different_randomness():
    preload = (*LIGHT, "numpy.random")  # its state exists before the fork
    with InProcessGrid(table(2), "tiny_app:app", workers=2, preload=preload) as made:
        made.wait_ready()
        naps = made.send_and_receive([ask(node, "nap", seconds=0.3) for node in (1000, 1001)])
        first, second = (dict(reply.content["answer"]) for reply in naps)
        assert first["pid"] != second["pid"] and os.getpid() not in (first["pid"], second["pid"])
        assert first["started"] < second["ended"] and second["started"] < first["ended"]
        replies = made.send_and_receive([ask(node, "draw") for node in (1000, 1001)])
        one, two = (dict(reply.content["answer"]) for reply in replies)
        assert one["pid"] != two["pid"] and one["number"] != two["number"]


def test_a_timeout_returns_what_has_come_and_the_rest_can_be_pulled_later():
    with grid() as made:
        made.wait_ready()
        slow, fast = ask(1000, "nap", seconds=1.0), ask(1001, "echo", text="fast")
        (only,) = made.send_and_receive([slow, fast], timeout=0.4)
        assert only.content["answer"]["text"] == "fast"
        late = []
        assert until(lambda: late.extend(made.pull_messages([slow.metadata.message_id])) or late)


@pytest.mark.parametrize("how", ["die", "leave"])
def test_a_worker_that_dies_fails_its_own_message_and_is_replaced(how):
    with grid() as made:
        fine, dead, queued = made.send_and_receive(
            [ask(1000, "nap", seconds=0.3), ask(1001, how), ask(1002, "echo", text="still here")]
        )
        assert fine.has_content() and queued.has_content()
        assert (dead.error.code, dead.error.reason) == (ErrorCode.CLIENT_APP_CRASHED, "crashed")
        again = made.send_and_receive([ask(node, "echo", text="again") for node in made.get_node_ids()])
        assert all(reply.has_content() for reply in again)
        assert until(lambda: list(made.pull_messages([])) == [] and len(made.worker_pids) == 2)


def test_every_worker_may_be_killed_from_outside():
    with grid() as made:
        made.wait_ready()
        pids = made.worker_pids
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        replies = made.send_and_receive([ask(node, "echo", text="x") for node in (1000, 1001, 1002) * 2])
        assert sum(reply.has_content() for reply in replies) >= 4
        assert not set(made.worker_pids) & set(pids)


def test_an_app_that_is_not_there_is_an_error_reply():
    for workers in (0, 1):
        with grid(1, workers, app="no_such_module:app") as made:
            (reply,) = made.send_and_receive([ask(1000, "echo", text="x")])
            assert (reply.error.code, reply.error.reason) == (
                ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
                "not-loaded",
            )


def test_workers_that_cannot_start_end_the_engine_with_an_error(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with grid(1, 1) as made, pytest.raises(EngineError, match="do not start"):
        made.send_and_receive([ask(1000, "echo", text="x")])


def test_closing_ends_all_workers_even_busy_ones():
    made = grid()
    made.wait_ready()
    pids = made.worker_pids
    made.push_messages([ask(1000, "nap", seconds=600), ask(1001, "nap", seconds=600)])
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 4
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


def test_closing_does_not_wait_for_workers_that_still_start():
    made = InProcessGrid(table(2), "tiny_app:app", workers=2)
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 1


def test_the_observer_sees_the_very_bytes_of_both_directions():
    seen = []
    with grid(1, 1, observer=lambda kind, node, data: seen.append((kind, node, data))) as made:
        made.send_and_receive([ask(1000, "echo", text="needle")])
    assert [item[:2] for item in seen] == [("request", 1000), ("reply", 1000)]
    assert all(b"needle" in item[2] for item in seen)


PARENT = """
import sys, threading
from flwr.app import ConfigRecord, Message, RecordDict
from mosaic_secure.engine.inprocess import InProcessGrid
folder = sys.argv[1]
nodes = {1000 + i: {"party": f"client-{i}"} for i in range(2)}
grid = InProcessGrid(nodes, "tiny_app:app", workers=2, preload=("flwr.clientapp",))
grid.send_and_receive([
    Message(RecordDict({"question": ConfigRecord({"path": f"{folder}/{node}"})}), node, "query.mark")
    for node in nodes
])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_their_parent(tmp_path, how):
    root = Path(__file__).parents[3]
    script = tmp_path / "parent.py"
    script.write_text(PARENT)  # no __main__ guard: workers must not run the caller's script again
    marks = tmp_path / "marks"
    marks.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{root}:{Path(__file__).parent}"}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(marks)], env=env, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert until(lambda: len([f for f in marks.iterdir() if f.read_text()]) == 2, 30)
        pids = [int(file.read_text()) for file in marks.iterdir()]
        os.killpg(parent.pid, how)
        said = parent.communicate(timeout=10)[1]
        assert until(lambda: not any(alive(pid) for pid in pids), 5)
        assert said.count("Traceback") <= 1
    finally:
        parent.kill()
        parent.wait()
