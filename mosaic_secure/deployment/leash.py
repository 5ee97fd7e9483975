"""Child processes that never outlive their parent, write to a log of their own, and are started again.

A child holds the reading end of a pipe whose writing end its parent alone has. When the parent ends in any
way, even by SIGKILL, the pipe closes, and the child ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Child", "hold"]

LEASH = "MOSAIC_LEASH"
_GRACE_SECONDS = 5.0
_LOG_BYTES = 8 << 20
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # seconds before a child is started again
_STEADY_SECONDS = 60.0  # one that ran so long has not failed in a row


def hold() -> None:
    """To be called first in a child: end with the parent. Does nothing in a process that is no child."""
    given = os.environ.pop(LEASH, None)
    if given is None:
        return

    def watch(descriptor: int) -> None:
        while os.read(descriptor, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, args=(int(given),), daemon=True).start()


@dataclass
class Child:
    """One process of this package: ``python -m MODULE ARGUMENTS``, started again when it ends.

    Args:
        module: what to run. arguments: its command line; no secret is ever in it.
        log: file for its output, mode 0600; the one before is kept as ``.1`` once it is large.
        environment: laid over this process' own. descriptors: open files that the child inherits.
    """

    module: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _leash: int | None = field(default=None, init=False, repr=False)
    _started: float = field(default=0.0, init=False, repr=False)
    _failures: int = field(default=0, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """Of the running process; None between two."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status of a process that has ended; None while it runs or before it starts."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; it must not be running."""
        reading, writing = os.pipe()
        try:
            with os.fdopen(_open_log(self.log), "ab") as out:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self.module, *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment, LEASH: str(reading)},
                    pass_fds=[reading, *self.descriptors],
                    process_group=0,  # a Ctrl-C at the terminal reaches the parent alone
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._leash, self._started = writing, time.monotonic()

    def keep(self) -> bool:
        """Start the process again if it has ended, not at once after many failures; True if it did."""
        if self.pid is not None:
            return False
        now = time.monotonic()
        if self._process is not None:
            lasted = now - self._started
            self._failures = 0 if lasted > _STEADY_SECONDS else self._failures
            if lasted < _PAUSES[min(self._failures, len(_PAUSES) - 1)]:
                return False
            self._failures += 1
            self._let_go()
        self.start()
        return True

    def ask_to_stop(self) -> None:
        """Tell the process to end, without waiting for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End the process: kindly, then by SIGKILL. May be repeated."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()
        self._let_go()

    def _let_go(self) -> None:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None


def _open_log(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
