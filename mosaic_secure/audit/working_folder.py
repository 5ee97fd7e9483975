"""Where an audit is made before it has its name, so that nobody finds half of one."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaic_secure.errors import UserError
from privacy.storage import make_private_directory, sync_directory

__all__ = ["SHADOWS", "WorkingFolder", "working_folder"]

SHADOWS = ".shadows"
_LEFT = re.compile(r"\.\d{8}-\d{6}-[0-9a-f]{4}")  # names that only an audit gives; others may lie beside them


class WorkingFolder:
    """A hidden folder among the audits, locked while one is at work in it.

    What a killed audit left is not locked, so the next one can tell and removes it.

    Attributes:
        path: now. final: once it is kept.
        shadows: what was trained for attacks and outlives an audit that is stopped, so that the next one goes
            on with it. It goes when an audit is kept.
    """

    def __init__(self, audits: Path) -> None:
        self.shadows = audits / SHADOWS
        while True:
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            self.final, self.path = audits / name, audits / f".{name}"
            make_private_directory(self.path)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():  # else another audit took it for a leftover before it was locked
                return
            os.close(self._lock)

    def keep(self) -> None:
        """Give it its name."""
        os.replace(self.path, self.final)
        sync_directory(self.final.parent)
        shutil.rmtree(self.shadows, ignore_errors=True)

    def close(self) -> None:
        """Remove it, unless it was kept."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def working_folder(audits: Path) -> Iterator[WorkingFolder]:
    """A new folder in `audits`, gone with the block unless it is kept; `audits` too if nothing is left in it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        _remove_leftovers(audits)
        folder = WorkingFolder(audits)
    except OSError as error:
        raise UserError(f"cannot write in {audits.parent}: {error.strerror}") from error
    try:
        yield folder
    finally:
        folder.close()
        if audits.is_dir() and not any(audits.iterdir()):
            audits.rmdir()


def _remove_leftovers(audits: Path) -> None:
    for left in audits.glob(".*"):
        if not _LEFT.fullmatch(left.name) or left.is_symlink() or not left.is_dir():
            continue
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass  # another audit is at work
        finally:
            os.close(lock)
