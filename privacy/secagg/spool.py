"""Contributions to one sum, set aside on disk while the others arrive, so that memory holds one at a time.

Nothing here is durable or trusted: a contribution that a crash has damaged is told from its name and must be
sent again, and whoever reads one checks it as if it had just come from the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from privacy.errors import AggregationError
from privacy.storage import PRIVATE_FILE, make_private_directory, write_all

__all__ = ["Kept", "Spool"]

NAME = re.compile(r"[0-9a-f]{64}")


class Spool:
    """A folder of contributions, each under its SHA-256 (hex). It is made when the first one comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    @staticmethod
    def name(data: bytes) -> str:
        """The name of these bytes."""
        return hashlib.sha256(data).hexdigest()

    def put(self, data: bytes) -> str:
        """Keep `data`, over whatever has its name; returns the name. The same bytes are kept once."""
        name = self.name(data)
        make_private_directory(self._folder)
        part = self._folder / f".{name}.{secrets.token_hex(6)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        try:
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
            os.replace(part, self._folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return name

    def pick(self, names: Sequence[str]) -> Kept:
        """The contributions of these names, in this order.

        Raises:
            AggregationError: one is not here, or named twice.
        """
        here = self._names()
        missing = [name for name in names if name not in here]
        if missing:
            raise AggregationError(
                f"{len(missing)} of {len(names)} contributions to be added never arrived; send them again"
            )
        if len(set(names)) != len(names):
            raise AggregationError("a contribution to be added is named twice; name each once")
        return Kept(tuple(self._folder / name for name in names))

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _names(self) -> set[str]:
        if not self._folder.is_dir():
            return set()
        return {entry.name for entry in os.scandir(self._folder) if NAME.fullmatch(entry.name)}


class Kept(Sequence[bytes]):
    """Contributions on disk; each is read when it is asked for, and not remembered."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Kept: ...

    def __getitem__(self, index: int | slice) -> bytes | Kept:
        """Raises AggregationError for a file that is gone or damaged."""
        if isinstance(index, slice):
            return Kept(self._paths[index])
        path = self._paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AggregationError(
                f"{path}: cannot be read ({error.strerror}); it must be sent again"
            ) from error
        if Spool.name(data) != path.name:
            raise AggregationError(f"{path}: is damaged; it must be sent again")
        return data
