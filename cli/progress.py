"""Progress of a run on standard error: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosaic_secure.progress import Progress, ProgressCallback

QUIET_SECONDS = 10.0  # between two plain lines of one stage


@contextlib.contextmanager
def shown() -> Iterator[ProgressCallback]:
    """Give a callback that shows each report it gets, until the block ends."""
    if sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield _Lines().report


class _Lines:
    """A line when a stage or a note begins, when the stage ends, and now and then while it lasts."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stage = self._note = ""
        self._last = 0.0

    def report(self, progress: Progress) -> None:
        now = time.monotonic()
        fresh = progress.stage != self._stage or progress.note not in ("", self._note)
        if not (fresh or progress.finished or now - self._last >= QUIET_SECONDS):
            return
        self._stage, self._note, self._last = progress.stage, progress.note, now
        part = f" {progress.done}/{progress.total}" if progress.total else ""
        note = f": {progress.note}" if progress.note else ""
        print(f"[{now - self._start:7.1f} s] {progress.stage}{part}{note}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:<14}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(progress: Progress) -> None:
            for stage, task in tasks.items():
                if stage != progress.stage:
                    bars.stop_task(task)
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total or 1, note="")
            changes = {"note": progress.note} if progress.note else {}
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total or 1, **changes)

        yield report
