"""A whole federation as processes of this machine, and what becomes of a run when they are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.deployment.cluster import LocalCluster
from mosaic_secure.deployment.control import Control
from mosaic_secure.deployment.driver import train_deployed
from mosaic_secure.deployment.founding import revoke
from mosaic_secure.engine.local import train
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.runs.verify import verify
from privacy.ledger_check import verify as verify_ledger

from ..tiny import FINE_TUNED, TINY

pytestmark = pytest.mark.slow

_ROUNDS = {"prototypes.rounds": 2, "prototypes.gradient_share": 0.3}
_PATIENCE = 90.0


def config_of(**changes: Any) -> RunConfig:
    """A small run with every kind of stage; the same noise in every engine."""
    settings = {name: value for name, value in TINY.items() if name != "engine.workers"}
    settings |= {**FINE_TUNED, **_ROUNDS, "privacy.epsilon": 4, "privacy.insecure_reproducible_noise": True}
    return load_config("digits", {**settings, "engine.patience": _PATIENCE, **changes})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    place = tmp_path_factory.mktemp("cluster") / "federation"
    with LocalCluster(config_of(), place, None, lambda _: None) as running:
        yield running
    for child in running.children.values():
        assert child.pid is None
    assert not _processes_of(place)  # none of theirs either


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The global model of the same run in-process."""
    place = tmp_path_factory.mktemp("expected")
    train(config_of(**{"engine.workers": 1}), out=place / "run", ledger_dir=place / "ledgers")
    return load_file(place / "run" / "global_model.safetensors")


def _processes_of(place: Path) -> list[str]:
    return subprocess.run(["pgrep", "-f", str(place)], capture_output=True, text=True).stdout.split()


class Fault:
    """Does something to the cluster once a stage of a run has come so far."""

    def __init__(self, stage: str, done: int, act: Callable[[], None]) -> None:
        self.stage, self.done, self._act, self.seen = stage, done, act, []
        self.happened = False

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if not self.happened and progress.stage == self.stage and progress.done >= self.done:
            self.happened = True
            self._act()


def run(cluster: LocalCluster, out: Path, fault: Fault | None = None, **changes: Any) -> Any:
    """A sealed run whose ledgers verify; processes that a fault has ended are started again after it."""
    config = config_of(**{"engine.name": "deployed", **changes})
    try:
        result = train_deployed(config, cluster.place, out=out, progress=fault, port=cluster.port)
    finally:
        for child in cluster.children.values():
            _up(child)
    assert fault is None or fault.happened
    assert verify(out).passed
    for party in cluster.parties[:-1]:
        assert not verify_ledger(cluster.place / "kits" / party).problems
    return result


def _up(child: Any) -> None:
    while child.pid is None:
        child.keep()
        time.sleep(0.2)


def left_out(out: Path) -> set[tuple[str, str]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {(row["on"], row["of"]) for row in rows if row["metric"] == "left out"}


def same_model(out: Path, expected: dict[str, Any]) -> bool:
    found = load_file(out / "global_model.safetensors")
    return all((found[name] == value).all() for name, value in expected.items())


def kill(cluster: LocalCluster, name: str, *, back: bool) -> Callable[[], None]:
    """SIGKILL for the process of one party; with `back` it is soon started again, as by a supervisor."""

    def act() -> None:
        child = cluster.children[name]
        os.kill(child.pid, signal.SIGKILL)
        while child.pid is not None:
            time.sleep(0.01)
        if back:
            threading.Thread(target=_up, args=(child,), daemon=True).start()

    return act


def kill_inner(cluster: LocalCluster, module: str) -> Callable[[], None]:
    """SIGKILL for a process that a party has started itself."""

    def act() -> None:
        pattern = f"deployment.{module} .*{cluster.place}"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()
        assert found
        for pid in found:
            os.kill(int(pid), signal.SIGKILL)

    return act


def test_a_deployed_run_gives_the_model_of_the_inprocess_run(
    cluster: LocalCluster, expected: dict[str, Any], tmp_path: Path
):
    run(cluster, tmp_path / "run")
    assert same_model(tmp_path / "run", expected) and left_out(tmp_path / "run") == set()


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        ("server", ("enrolment", 1)),
        ("server", ("prototypes", 4)),
        ("server", ("global model", 1)),
        ("superlink", ("prototypes", 1)),
        ("leading", ("local training", 1)),
    ],
)
def test_a_server_that_dies_goes_on_to_the_same_model(
    cluster: LocalCluster, expected: dict[str, Any], tmp_path: Path, what: str, stage: tuple[str, int]
):
    act = kill(cluster, "server", back=True) if what == "server" else kill_inner(cluster, what)
    run(cluster, tmp_path / "run", Fault(*stage, act))
    assert same_model(tmp_path / "run", expected)


@pytest.mark.parametrize("stage", [("enrolment", 1), ("prototypes", 2), ("local training", 1)])
def test_an_authority_that_dies_is_waited_for(
    cluster: LocalCluster, expected: dict[str, Any], tmp_path: Path, stage: tuple[str, int]
):
    run(cluster, tmp_path / "run", Fault(*stage, kill(cluster, "authority", back=True)))
    assert same_model(tmp_path / "run", expected) and left_out(tmp_path / "run") == set()


@pytest.mark.parametrize("stage", [("enrolment", 1), ("prototypes", 2), ("prototypes", 4)])
def test_a_client_that_dies_for_good_is_gone_on_without(
    cluster: LocalCluster, tmp_path: Path, stage: tuple[str, int]
):
    fault = Fault(*stage, kill(cluster, "client-2", back=False))
    run(cluster, tmp_path / "run", fault, **{"engine.patience": 30.0})
    gone = left_out(tmp_path / "run")
    assert gone and {client for _, client in gone} == {"client-2"}


def test_a_client_that_hangs_is_gone_on_without(cluster: LocalCluster, tmp_path: Path):
    child = cluster.children["client-1"]

    def hang() -> None:
        os.kill(child.pid, signal.SIGSTOP)

    try:
        run(cluster, tmp_path / "run", Fault("prototypes", 3, hang), **{"engine.patience": 15.0})
    finally:
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(child.pid, signal.SIGCONT)
    assert {client for _, client in left_out(tmp_path / "run")} == {"client-1"}


def test_too_few_clients_end_the_run_with_all_kept_and_it_can_be_resumed(
    cluster: LocalCluster, tmp_path: Path
):
    def act() -> None:
        for name in ("client-1", "client-2"):
            kill(cluster, name, back=False)()

    with pytest.raises(UserError, match="1 clients are left|1 valid contributions"):
        run(cluster, tmp_path / "run", Fault("prototypes", 2, act))
    config = config_of(**{"engine.name": "deployed"})
    _all_there(cluster)
    result = train_deployed(config, cluster.place, out=tmp_path / "run", resume=True, port=cluster.port)
    assert result.accuracy is not None and verify(tmp_path / "run").passed


def test_a_revoked_client_is_put_out_and_the_others_go_on(cluster: LocalCluster, tmp_path: Path):
    """The last test of this file: there is no way back but a new key."""
    _all_there(cluster)
    revoke(cluster.place, "client-0")
    control = Control(cluster.port, cluster.place / "server" / "ca.pem")
    end = time.monotonic() + 60
    while len(control.nodes()) == len(cluster.parties) and time.monotonic() < end:
        time.sleep(0.5)
    assert len(control.nodes()) == len(cluster.parties) - 1
    control.close()
    run(cluster, tmp_path / "run")
    messages = (tmp_path / "run" / "messages.jsonl").read_text()
    assert '"client-0"' not in messages and '"client-1"' in messages


def _all_there(cluster: LocalCluster) -> None:
    control = Control(cluster.port, cluster.place / "server" / "ca.pem")
    end = time.monotonic() + 90
    while len(control.online()) < len(cluster.parties) and time.monotonic() < end:
        time.sleep(0.5)
    control.close()
