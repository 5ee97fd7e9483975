"""Files that survive a crash of the process or of the machine: written whole, or not there at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from privacy.errors import PrivacyError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def sync_directory(path: Path) -> None:
    """Make the entries of a directory (new, renamed and removed names) durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private_directory(path: Path) -> None:
    """Create a directory, and any missing parent, with mode 0700; durable before return."""
    missing = []
    current = path
    while not current.exists():
        missing.append(current)
        current = current.parent
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        sync_directory(folder.parent)


def write_durably(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file with mode 0600 so that a reader finds either all of `data` or the state before.

    The bytes go to a new file beside `path`, are flushed to the disk, and only then take its name. With
    `replace=False` an existing file is left as it is and `FileExistsError` is raised.
    """
    make_private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """The bytes of a secret file; raises PrivacyError where it cannot be read, or others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"{path}: cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise PrivacyError(f"{path}: mode {mode:04o} lets others read it; it must be 0600")
    return data


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte to an open descriptor (a single call of the system may write fewer)."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
