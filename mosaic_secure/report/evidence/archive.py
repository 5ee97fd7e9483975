"""The files of a pack, in a folder or a zip: read without trusting them, written the same way each time.

Nothing is ever unpacked to the disk. A zip is looked at entry by entry, and of each no more bytes are
inflated than the index lists for it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from mosaic_secure.errors import UserError
from mosaic_secure.report.evidence.format import INDEX, MOST_BYTES, MOST_FILES, SIGNATURE, is_safe_name

__all__ = ["PackFiles", "digest_of", "is_pack", "opened", "read_file", "shown", "write_zip"]

_CHUNK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_DIRECTORY = 8 << 20
"""Bytes of a zip's table of contents, which is read whole: enough for far more than MOST_FILES entries."""
_BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError)


class _Opener(Protocol):
    def __call__(self, name: str) -> IO[bytes]: ...


@dataclass(frozen=True)
class PackFiles:
    """What lies in a pack: name -> size in bytes, how to open one, and what is wrong with the container."""

    sizes: Mapping[str, int]
    open: _Opener
    problems: list[str] = field(default_factory=list)


def is_pack(path: Path) -> bool:
    """Whether `path` is a file (then it should be a zip), or a folder with an index or a signature."""
    return path.is_file() or any((path / name).is_file() for name in (INDEX, SIGNATURE))


@contextmanager
def opened(path: Path) -> Iterator[PackFiles]:
    """The files of the pack at `path`.

    Raises:
        UserError: it is neither a folder nor a zip, or larger than any pack.
    """
    if path.is_dir():
        yield _folder(path)
        return
    try:
        _check_zip_end(path)
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else "not a whole zip file"
        raise UserError(f"{path} is no evidence pack: {said}") from error
    with archive:
        yield _zipped(path, archive)


def digest_of(files: PackFiles, name: str, length: int) -> str | None:
    """SHA-256 of a file of so many bytes; None if it cannot be read or has another length."""
    found, read = hashlib.sha256(), 0
    try:
        with files.open(name) as stream:
            while chunk := stream.read(min(_CHUNK, length - read + 1)):
                read += len(chunk)
                if read > length:
                    return None
                found.update(chunk)
    except _BROKEN:
        return None
    return found.hexdigest() if read == length else None


def read_file(files: PackFiles, name: str, most: int) -> bytes | None:
    """A whole file of at most so many bytes; None if it cannot be read or is longer."""
    try:
        with files.open(name) as stream:
            data = stream.read(most + 1)
    except _BROKEN:
        return None
    return data if len(data) <= most else None


def write_zip(path: Path, top: str, files: Mapping[str, bytes]) -> None:
    """Write files below the folder `top`; the same files give the same bytes. Durable before return."""
    with path.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        with zipfile.ZipFile(stream, "w") as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(f"{top}/{name}", _DATE)
                entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, files[name], compresslevel=9)
        stream.flush()
        os.fsync(stream.fileno())


def _folder(top: Path) -> PackFiles:
    sizes: dict[str, int] = {}
    problems: list[str] = []
    for folder, folders, names in os.walk(top, followlinks=False):
        here = Path(folder)
        for name in sorted(names + [name for name in folders if (here / name).is_symlink()]):
            found = (here / name).lstat()
            own = (here / name).relative_to(top).as_posix()
            if stat.S_ISREG(found.st_mode):
                sizes[own] = found.st_size
            else:
                problems.append(f"{shown(own)}: not a plain file")
        if len(sizes) > 2 * MOST_FILES:
            raise UserError(f"{top} is no evidence pack: it holds more than {MOST_FILES} files")

    def opener(name: str) -> IO[bytes]:
        return os.fdopen(os.open(top / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    return PackFiles(sizes, opener, problems)


def _zipped(path: Path, archive: zipfile.ZipFile) -> PackFiles:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > 2 * MOST_FILES:
        raise UserError(f"{path} is no evidence pack: it holds more than {MOST_FILES} files")
    top = _top(entries)
    kept: dict[str, zipfile.ZipInfo] = {}
    problems: list[str] = []
    for entry in entries:
        name = entry.filename.removeprefix(top)
        problem = _entry_problem(entry, name)
        if problem is None and name in kept:
            problem = "is there twice"
        if problem is None:
            kept[name] = entry
        else:
            problems.append(f"{shown(name)}: {problem}")
    return PackFiles(
        {name: entry.file_size for name, entry in kept.items()},
        lambda name: archive.open(kept[name]),
        problems,
    )


def _top(entries: list[zipfile.ZipInfo]) -> str:
    """The one folder that holds the index, with its slash, or nothing."""
    tops = {entry.filename.partition("/")[0] for entry in entries}
    if len(tops) == 1 and (top := tops.pop()) and is_safe_name(top):
        inside = {entry.filename for entry in entries}
        if {f"{top}/{INDEX}", f"{top}/{SIGNATURE}"} & inside:
            return f"{top}/"
    # something lies beside the folder: it is named as extra, not taken for the place of the pack
    for entry in entries:
        top, _, rest = entry.filename.partition("/")
        if rest in (INDEX, SIGNATURE) and is_safe_name(top):
            return f"{top}/"
    return ""


def _entry_problem(entry: zipfile.ZipInfo, name: str) -> str | None:
    mode = entry.external_attr >> 16
    if not is_safe_name(name):
        return "a name that no pack has"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a plain file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return "is compressed in a way that no pack is"
    if entry.file_size > MOST_BYTES:
        return "is larger than a whole pack may be"
    return None


def _check_zip_end(path: Path) -> None:
    """Refuse a table of contents that is too large before anything reads it; raises ValueError."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 42))
        end = stream.read()
    if len(end) < 22 or end[-22:-18] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise ValueError("the end of a zip without a comment is missing")
    entries, length = struct.unpack("<HI", end[-12:-6])
    if len(end) == 42 and end[:4] == b"PK\x06\x07":
        raise ValueError("a zip of more than 4 GB or 65,535 files")
    if length > _MOST_DIRECTORY or entries > 2 * MOST_FILES:
        raise ValueError("more files than any pack has")


def shown(name: str) -> str:
    """A name on one line, however it was meant."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name[:200])
