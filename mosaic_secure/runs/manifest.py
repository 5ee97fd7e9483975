"""The manifest of a directory: what it holds, byte for byte, and the configuration that led there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.runs.encoding import json_document, jsonable, parse_json, sha256
from privacy.canonical import canonical_json
from privacy.storage import write_durably

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
AUDITS = "audits"


def read(directory: Path) -> dict[str, Any]:
    """Read a directory's manifest.

    Raises:
        UserError: the directory is no run, or the manifest is damaged.
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory; expected a run written by mosaic-secure train")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not a run directory: it has no {MANIFEST}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The manifest that these bytes hold; raises UserError that begins with `name` if they are damaged."""
    content = parse_json(data, name)
    if content.get("sealed") and content.get("digest") != _digest(content):
        raise UserError(f"{name} is damaged: its digest does not fit its content")
    if not isinstance(content.get("files", {}), dict) or not isinstance(content.get("sealed"), bool):
        raise UserError(f"{name} is damaged: expected the fields of a manifest")
    return content


def write(directory: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the final manifest of a directory: `record`, SHA-256 and size of every file, a digest over all.

    The files are flushed to the disk first, so that a manifest never names bytes that a crash can still take.
    """
    files = {name: file_entry(path, flush=True) for name, path in listed_files(directory)}
    content = jsonable({"schema_version": 1, **record, "files": files})
    content["digest"] = _digest(content)
    write_durably(directory / MANIFEST, json_document(content))
    return content


def listed_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of what a manifest lists: all but itself, checkpoints and audits, in sorted order.

    Links are listed too, so that a check reports them: a run makes none.
    """
    found = []
    for folder, folders, names in os.walk(directory):
        here = Path(folder)
        if here == directory:
            folders[:] = [name for name in folders if name not in (CHECKPOINTS, AUDITS)]
            names = [name for name in names if name != MANIFEST]
        links = [name for name in folders if (here / name).is_symlink()]
        found += [here / name for name in names + links]
    for path in sorted(found):
        yield path.relative_to(directory).as_posix(), path


def file_entry(path: Path, *, flush: bool = False) -> dict[str, Any]:
    """SHA-256 and size in bytes of one file; `flush` makes its content durable first."""
    with path.open("rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"sha256": digest, "bytes": stream.tell()}


def check_same_config(
    directory: Path, content: Mapping[str, Any], config: Mapping[str, Any] | None, config_hash: str | None
) -> None:
    """Refuse to continue a run under another configuration, and name the fields that differ."""
    before = content.get("config_hash")
    if config_hash is None or before is None or before == config_hash:
        return
    old, new = flat(jsonable(content.get("config") or {})), flat(jsonable(config or {}))
    changed = [
        f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    detail = "; ".join(changed[:3]) or f"its hash was {before}, now {config_hash}"
    raise UserError(f"{directory} was started with another configuration ({detail}); use the same options")


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(canonical_json({key: value for key, value in content.items() if key != "digest"}))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration as one level of dotted fields."""
    fields: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{key}.")
        else:
            fields[prefix + key] = value
    return fields
