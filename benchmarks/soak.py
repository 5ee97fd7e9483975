"""Runs of a federation of real processes, one after the other, while processes of all its parties are killed.

Every process is a victim, whole parties as well as what they have started themselves; each kill is a SIGKILL
at a random moment. A party that was killed is started again after a while, as by a supervisor, and one
client in some runs not before the run's end. After every run: it is sealed and verifies, every ledger of
a client verifies, and no process, listening port or file of a temporary folder is there that was not before.

    python benchmarks/soak.py soak --runs 20 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, hardware, versions

from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.deployment.cluster import LocalCluster
from mosaic_secure.deployment.driver import train_deployed
from mosaic_secure.errors import UserError
from mosaic_secure.runs.verify import verify
from privacy.ledger_check import verify as verify_ledger

CLIENTS = 4
OPTIONS: Mapping[str, Any] = {
    "privacy.epsilon": 4,
    "privacy.min_contributors": CLIENTS - 1,
    "data.limit": 400,
    "clients.count": CLIENTS,
    "clients.architectures": "mlp",
    "partition.kind": "iid",
    "prototypes.dim": 64,
    "prototypes.rounds": 2,
    "prototypes.gradient_share": 0.3,
    "privacy.shares.prototypes": 0.5,
    "privacy.shares.fine_tune": 0.1,
    "fine_tune.rounds": 1,
    "fine_tune.steps": 3,
    "classifier.steps": 20,
    "generator.steps": 20,
    "gate.steps": 20,
    "distill.steps": 40,
    "distill.synthetic_pool": 500,
    "engine.name": "deployed",
    "engine.device": "cpu",
    "engine.patience": 90.0,
}
OF_SERVER, OF_OTHERS = (None, "superlink", "leading"), (None, "supernode", "worker")
"""Victims at a party: itself (None), and what it has started."""
HUNG_SECONDS = 900.0
LATEST = 0.9  # a kill comes before this many times the seconds of a run without one


@dataclass(frozen=True)
class Kill:
    """Who is to be killed: a party, or with `inner` a process that it has started; both in seconds."""

    at: float
    party: str
    inner: str | None = None
    away: float | None = 0.0
    """Until the party is started again; None: not before the run's end. Its parent starts what is inside."""


@dataclass
class Done:
    """What became of one run."""

    seconds: float = 0.0
    kills: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    accuracy: float | None = None
    verified: bool = False
    ledgers: str = ""
    processes: int = 0
    ports: int = 0
    descriptors: int = 0
    temporary: int = 0
    kept_bytes: dict[str, int] = field(default_factory=dict)


def config() -> RunConfig:
    """What is run, again and again."""
    return load_config("digits", dict(OPTIONS))


def draw_kills(draw: random.Random, parties: list[str], seconds: float) -> list[Kill]:
    """One to three kills within a run of so many seconds; at most one client stays away."""
    kills, gone = [], False
    for _ in range(draw.randint(1, 3)):
        at = draw.uniform(0.0, LATEST) * seconds
        party = draw.choice(["server", *parties])
        inner = draw.choice(OF_SERVER if party == "server" else OF_OTHERS)
        away: float | None = 0.0 if inner else round(draw.uniform(0.0, 8.0), 2)
        if inner is None and party.startswith("client") and not gone and draw.random() < 0.3:
            away, gone = None, True
        kills.append(Kill(round(at, 2), party, inner, away))
    return sorted(kills, key=lambda kill: kill.at)


class Disturbance:
    """Kills what it is told while a `with` block lasts, and starts parties again; at the end all of them."""

    def __init__(self, cluster: LocalCluster, kills: list[Kill]) -> None:
        self._children, self._kills = cluster.children, kills
        self._back: dict[str, float] = {}
        self._over = threading.Event()
        self.done: list[dict[str, Any]] = []

    def __enter__(self) -> Disturbance:
        self._thread = threading.Thread(target=self._disturb, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for child in self._children.values():
            while child.pid is None:
                child.keep()
                time.sleep(0.1)

    def _disturb(self) -> None:
        began, waiting = time.monotonic(), list(self._kills)
        while not self._over.wait(0.1):
            now = time.monotonic() - began
            while waiting and waiting[0].at <= now:
                self._carry_out(waiting.pop(0), now)
            for name, child in self._children.items():
                if child.pid is None and now >= self._back.get(name, 0.0):
                    child.keep()

    def _carry_out(self, kill: Kill, now: float) -> None:
        pid = self._children[kill.party].pid
        if pid is not None and kill.inner is not None:
            pid = _inner(pid, kill.inner)
        if pid is None:  # nothing of that kind is running at the moment
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            if kill.inner is None:
                self._back[kill.party] = now + (1e9 if kill.away is None else kill.away)
            self.done.append(asdict(kill))


def _inner(pid: int, kind: str) -> int | None:
    """A process below `pid` of this kind."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                if (f"deployment.{kind}" in line) if kind != "worker" else ("engine.worker" in line):
                    return process.pid
    return None


def tree(place: Path) -> list[psutil.Process]:
    """Processes that belong to a federation: those below this one, and those that name its folder."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(place) in " ".join(process.cmdline()) and process.pid != os.getpid():
                found[process.pid] = process
    return list(found.values())


def ports(processes: list[psutil.Process]) -> int:
    """How many ports they listen at."""
    count = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            count += sum(c.status == psutil.CONN_LISTEN for c in process.net_connections("inet"))
    return count


def size(folder: Path) -> int:
    """Bytes of the files under a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def kept(place: Path) -> dict[str, int]:
    """Bytes that a federation's folder holds, by what they are for."""
    kits = [kit for kit in (place / "kits").iterdir() if kit.is_dir()]
    return {
        "server state": size(place / "server" / "state"),
        "server other": size(place / "server") - size(place / "server" / "state"),
        "logs": size(place / "logs") + sum(size(kit / "logs") for kit in kits),
        "kits": sum(size(kit) - size(kit / "logs") for kit in kits),
    }


def settle(place: Path, wanted: tuple[int, int], seconds: float = 60.0) -> tuple[int, int]:
    """Processes of the federation and ports, once they are as many as `wanted` or the time is up."""
    end = time.monotonic() + seconds
    while True:
        there = tree(place)
        found = len(there), ports(there)
        if found == wanted or time.monotonic() > end:
            return found
        time.sleep(0.5)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the program, with a word, when what is inside hangs."""

    def give_up() -> None:
        print(f"a run hangs: {seconds:g} s are over", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def one(cluster: LocalCluster, out: Path, kills: list[Kill]) -> Done:
    """One run, disturbed, and what is to be seen after it."""
    done, began = Done(), time.monotonic()
    with limited(HUNG_SECONDS), Disturbance(cluster, kills) as disturbance:
        done.accuracy = train_deployed(config(), cluster.place, out=out, port=cluster.port).accuracy
    done.seconds, done.kills = round(time.monotonic() - began, 1), disturbance.done
    done.verified = bool(verify(out).passed)
    rows = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    done.left_out = sorted({row["of"] for row in rows if row["metric"] == "left out"})
    kits = [cluster.place / "kits" / party for party in cluster.parties[:-1]]
    faults = [problem for kit in kits for problem in verify_ledger(kit).problems]
    done.ledgers = "; ".join(map(str, faults)) or "pass"
    return done


def soak(folder: Path, runs: int, seed: int, told: Callable[[str], None]) -> dict[str, Any]:
    """All runs; what was found, with `clean` saying whether nothing was left behind.

    Raises:
        UserError: a run does not come to its end.
    """
    draw, temporary = random.Random(seed), folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    results: list[Done] = []
    cluster = LocalCluster(config(), folder / "federation", None, lambda _: None)
    with cluster:
        first = one(cluster, folder / "runs" / "undisturbed", [])
        usual = settle(cluster.place, (0, 0), 5.0)
        before = {"processes": usual[0], "ports": usual[1], "seconds": first.seconds}
        before["temporary"] = len(list(temporary.iterdir()))  # what libraries keep for later
        own = psutil.Process().num_fds()
        told(f"undisturbed: {before}")
        for number in range(runs):
            kills = draw_kills(draw, list(cluster.parties), first.seconds)
            done = one(cluster, folder / "runs" / str(number), kills)
            done.processes, done.ports = settle(cluster.place, usual)
            done.descriptors = psutil.Process().num_fds() - own
            done.temporary = len(list(temporary.iterdir()))
            done.kept_bytes = kept(cluster.place)
            results.append(done)
            told(f"{number}: {asdict(done)}")
    after = settle(cluster.place, (0, 0), 20.0)
    return {
        "undisturbed": before,
        "kills": sum(len(run.kills) for run in results),
        "all_verified": all(run.verified for run in results),
        "ledgers_verify": all(run.ledgers == "pass" for run in results),
        "same_processes": all(run.processes == before["processes"] for run in results),
        "same_ports": all(run.ports == before["ports"] for run in results),
        "same_temporary": all(run.temporary == before["temporary"] for run in results),
        "processes_after": after[0],
        "runs": [asdict(run) for run in results],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", help="name of the result file")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments")
    parser.add_argument("--folder", type=Path, help="empty, where it happens; a temporary one if not given")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = soak(folder, chosen.runs, chosen.seed, lambda line: print(line, flush=True))
        except UserError as error:
            raise SystemExit(f"a run did not come to its end: {error}") from None
    record = {
        "schema_version": 1,
        "name": chosen.name,
        "command": f"python benchmarks/soak.py {chosen.name} --runs {chosen.runs} --seed {chosen.seed}",
        "hardware": hardware(),
        "versions": versions(),
        **found,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "runs"}, indent=2))


if __name__ == "__main__":
    main()
