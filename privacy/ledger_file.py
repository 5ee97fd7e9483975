"""The file under a ledger: locked while it is open, and only ever added to."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from privacy.errors import LedgerError
from privacy.storage import PRIVATE_FILE, make_private_directory, sync_directory, write_all


class LedgerFile:
    """An append-only file of mode 0600 with an exclusive lock, which ends with the process at the latest.

    Args:
        path: created, with its directories, if missing.
        wait_seconds: how long to wait for another process that holds the lock.

    Raises:
        LedgerError: another process holds it, or the file cannot be opened.
    """

    def __init__(self, path: Path, wait_seconds: float) -> None:
        self._path = path
        self._descriptor: int | None = None
        try:
            make_private_directory(path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, PRIVATE_FILE)
        except OSError as error:
            raise LedgerError(f"ledger {path}: cannot be opened ({error.strerror})") from error
        try:
            self._lock(wait_seconds)
            sync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which gives up the lock; closing twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> bytes:
        """All that the file holds."""
        parts: list[bytes] = []
        offset = 0
        while part := os.pread(self._open(), 1 << 20, offset):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def append(self, data: bytes) -> None:
        """Add `data`, durably. After a failure nobody knows what is on the disk, so the file closes."""
        descriptor = self._open()
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise LedgerError(f"ledger {self._path}: cannot be written ({error.strerror})") from error
            raise

    def cut(self, length: int) -> None:
        """Drop all but the first `length` bytes, durably."""
        os.ftruncate(self._open(), length)
        os.fsync(self._open())

    def _open(self) -> int:
        if self._descriptor is None:
            raise LedgerError(f"ledger {self._path}: is closed")
        return self._descriptor

    def _lock(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LedgerError(f"ledger {self._path}: another process is using it") from None
                time.sleep(0.02)
