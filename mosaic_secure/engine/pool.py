"""A pool of worker processes that run messages through a ClientApp, each job in one worker."""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mosaic_secure.engine.execution import Job, Outcome
from mosaic_secure.engine.frames import receive_frame, send_frame
from mosaic_secure.protocol.failures import CRASHED, NOT_LOADED

PRELOAD = ("torch", "flwr.clientapp", "flwr.common.serde", "tenseal", "opacus.optimizers")
_ENTRY = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from mosaic_secure.engine.worker import main; main(sys.argv[2])"
)
# Per-record gradients are large and short-lived. By default glibc maps and unmaps such blocks at every step;
# these workers keep them (up to 32 MiB, its own limit, each) until the job ends. Own settings go first.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
_STARTS_IN_A_ROW = 2
_CLOSING_SECONDS = 5.0


class EngineError(RuntimeError):
    """The engine itself cannot go on: its workers do not start."""


@dataclass
class _Worker:
    connection: socket.socket
    process: subprocess.Popen[bytes]
    pid: int | None = None  # known once it is ready
    handle: int | None = None  # pidfd: waits for this very process, whoever its parent is
    job: int | None = None
    lost: bool = False


@dataclass
class WorkerPool:
    """Workers that share the pages of one process that imported the libraries.

    ``size`` processes are started together by :meth:`start` and import while the caller goes on. A worker
    that dies fails the job it held and is replaced. Not safe for use by several threads at once.
    """

    app: str
    size: int
    threads: int = 1
    preload: Sequence[str] = PRELOAD
    _workers: list[_Worker] = field(default_factory=list, init=False, repr=False)
    _waiting: deque[tuple[int, Job]] = field(default_factory=deque, init=False, repr=False)
    _finished: list[tuple[int, Outcome | str]] = field(default_factory=list, init=False, repr=False)
    _selector: selectors.BaseSelector = field(
        default_factory=selectors.DefaultSelector, init=False, repr=False
    )
    _failed_starts: int = field(default=0, init=False, repr=False)

    def start(self) -> None:
        """Start the worker processes; returns at once."""
        self._launch(self.size)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until every worker has imported its libraries; False if ``timeout`` seconds pass before.

        Raises:
            EngineError: if workers die before they are ready, again and again.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while len(self.pids) < self.size:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._pump(left)
        return True

    def submit(self, number: int, job: Job) -> None:
        """Give a job to an idle worker now, or to the next free one during :meth:`collect`."""
        self._waiting.append((number, job))
        self._pump(0.0)

    def collect(self, timeout: float | None) -> list[tuple[int, Outcome | str]]:
        """Jobs that ended since the last call; waits up to ``timeout`` seconds for one (None: forever).

        Each is the job's number and its outcome, or one fixed word: ``crashed`` or ``not-loaded``.

        Raises:
            EngineError: if workers die before they are ready, again and again.
        """
        end = None if timeout is None else time.monotonic() + timeout
        self._pump(0.0)
        while not self._finished and self._busy():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self._pump(left)
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """End all workers: kindly first, then by SIGKILL."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.connection.shutdown(socket.SHUT_RDWR)
        end = time.monotonic() + _CLOSING_SECONDS
        for worker in self._workers:
            if worker.handle is None:
                worker.process.kill()  # still importing: nothing is lost
            if worker.handle is None or worker.pid == worker.process.pid:
                _end_child(worker.process, end)
            else:
                _end(worker.handle, end)
        for worker in self._workers:
            _forget(worker)
        self._workers.clear()
        self._waiting.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    @property
    def idle(self) -> bool:
        """Whether no job is waiting, being worked on, or still to be collected."""
        return not (self._finished or self._busy())

    def _busy(self) -> bool:
        return bool(self._waiting) or any(worker.job is not None for worker in self._workers)

    def _pump(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout) if self._workers else ():
            self._read(key.data)
        for worker in [worker for worker in self._workers if worker.lost]:
            self._replace(worker)
        for worker in self._workers:
            if self._waiting and worker.pid is not None and worker.job is None and not worker.lost:
                self._give(worker, *self._waiting.popleft())

    def _give(self, worker: _Worker, number: int, job: Job) -> None:
        header = {
            "app": job.app,
            "node_id": job.node_id,
            "node_config": dict(job.node_config),
            "run_config": dict(job.run_config),
        }
        worker.job = number
        try:
            send_frame(worker.connection, header, (job.message, job.state))
        except OSError:
            self._lose(worker)

    def _read(self, worker: _Worker) -> None:
        try:
            header, parts = receive_frame(worker.connection)
        except (EOFError, OSError):
            self._lose(worker)
            return
        if "ready" in header:
            worker.pid = int(header["ready"])
            with contextlib.suppress(OSError):
                worker.handle = os.pidfd_open(worker.pid)
            self._failed_starts = 0
        elif worker.job is not None:
            outcome = Outcome(*parts) if header["outcome"] == "reply" else NOT_LOADED
            self._finished.append((worker.job, outcome))
            worker.job = None

    def _lose(self, worker: _Worker) -> None:
        if worker.job is not None:
            self._finished.append((worker.job, CRASHED))
        worker.job = None
        worker.lost = True

    def _replace(self, worker: _Worker) -> None:
        self._selector.unregister(worker.connection)
        _forget(worker)
        self._workers.remove(worker)
        worker.process.poll()
        if worker.pid is None:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_IN_A_ROW * self.size:
                raise EngineError("the worker processes do not start; their own output above says why")
        self._launch(1)

    def _launch(self, count: int) -> None:
        ours, theirs = zip(*(socket.socketpair() for _ in range(count)), strict=True)
        settings = {
            "sockets": [end.fileno() for end in theirs],
            "preload": list(self.preload),
            "app": self.app,
            "threads": self.threads,
        }
        threads = str(self.threads)
        environment = {
            **_MALLOC,
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MALLOC_ARENA_MAX": "2",
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _ENTRY, json.dumps(sys.path), json.dumps(settings)],
            env=environment,
            pass_fds=[end.fileno() for end in theirs],
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C at the terminal reaches the engine alone
        )
        for end in theirs:
            end.close()
        for end in ours:
            worker = _Worker(end, process)
            self._workers.append(worker)
            self._selector.register(end, selectors.EVENT_READ, worker)


def _end_child(process: subprocess.Popen[bytes], end: float) -> None:
    try:
        process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end(handle: int, end: float) -> None:
    if not select.select([handle], [], [], max(0.1, end - time.monotonic()))[0]:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], _CLOSING_SECONDS)


def _forget(worker: _Worker) -> None:
    worker.connection.close()
    if worker.handle is not None:
        os.close(worker.handle)
        worker.handle = None
