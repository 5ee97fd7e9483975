"""The directory of one run: created, filled atomically, checkpointed, resumed, sealed.

A directory holds an open manifest from its first moment and is locked while a process works in it. Sealing
lists every file with its SHA-256; from then on nothing in it changes, except that audits add folders of their
own under ``audits/``. All files are readable by their owner only.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.runs import checkpoint, manifest
from mosaic_secure.runs.encoding import (
    json_document,
    json_line,
    parse_json,
    parse_tensors,
    sha256,
    tensor_bytes,
)
from privacy.storage import make_private_directory, sync_directory, write_all, write_durably

MANIFEST = manifest.MANIFEST
CHECKPOINTS = manifest.CHECKPOINTS


def default_run_path(parent: str | Path = "runs") -> Path:
    """A fresh name under `parent`: date, time and four random hexadecimal digits. Nothing is created."""
    while True:
        path = Path(parent) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if not path.exists():
            return path


class RunDirectory:
    """One run on disk. Use :meth:`create` to work in it and :meth:`open` to read it.

    Names are relative paths with forward slashes, such as ``"experts/index.json"``. A writable directory is
    locked against other processes until :meth:`close`; it is a context manager.
    """

    def __init__(self, path: Path, content: dict[str, Any], lock: int | None) -> None:
        self.path = path
        self._manifest = content
        self._release = weakref.finalize(self, os.close, lock) if lock is not None else None

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        config_hash: str | None = None,
    ) -> RunDirectory:
        """Start a run in a new or empty directory, or continue the one that is there.

        Args:
            path: the directory itself; it must not exist, or be empty, unless `resume`.
            resume: continue an interrupted run. A sealed run is returned as it is (see :attr:`sealed`).
            config: everything the run depends on, kept in the manifest.
            config_hash: its hash; a resumed run must have been started with the same one.

        Raises:
            UserError: the directory is not empty, is no run, was started with another configuration, is used
                by another process, or cannot be written.
        """
        path = Path(path)
        if resume and not path.is_dir():
            raise UserError(f"nothing to resume: {path} does not exist; leave out --resume to start it")
        try:
            make_private_directory(path)
            lock = _lock(path)
        except OSError as error:
            raise UserError(f"cannot use {path} as a run directory: {error.strerror or error}") from error
        run = cls(path, {}, lock)
        try:
            run._begin(resume, config, config_hash)
        except OSError as error:
            run.close()
            raise UserError(f"cannot write in the run directory {path}: {error.strerror or error}") from error
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Read a run without locking it; every write is refused.

        Raises:
            UserError: there is no run at `path`, or its manifest is damaged.
        """
        path = Path(path)
        return cls(path, manifest.read(path), None)

    def _begin(self, resume: bool, config: Mapping[str, Any] | None, config_hash: str | None) -> None:
        if resume:
            self._remove_unfinished_writes()
        else:
            self._remove_unfinished_beginning()
        names = sorted(entry.name for entry in self.path.iterdir())
        if MANIFEST in names:
            if not resume:
                raise UserError(
                    f"{self.path} already holds a run; choose another --out, or add --resume to continue it"
                )
            self._manifest = manifest.read(self.path)
            manifest.check_same_config(self.path, self._manifest, config, config_hash)
            if self.sealed and (self.path / CHECKPOINTS).exists():  # killed between sealing and cleaning up
                shutil.rmtree(self.path / CHECKPOINTS)
            return
        if names:
            wanted = "a run to resume" if resume else "a directory that does not exist or is empty"
            raise UserError(f"{self.path} is not empty (it holds {names[0]}); expected {wanted}")
        self._manifest = {
            "run_id": secrets.token_hex(8),
            "sealed": False,
            "config_hash": config_hash,
            "config": config,
        }
        write_durably(self.path / MANIFEST, json_document(self._manifest))

    def _remove_unfinished_beginning(self) -> None:
        """Clear what a process left that was killed while it wrote the first manifest, and nothing else."""
        entries = list(self.path.iterdir())
        if all(entry.match(f".{MANIFEST}.*.part") for entry in entries):
            for entry in entries:
                entry.unlink()

    def _remove_unfinished_writes(self) -> None:
        for leftover in self.path.rglob(".*.part"):
            leftover.unlink()
        for journal in self.path.glob("*.jsonl"):
            data = journal.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                os.truncate(journal, whole)

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits drawn when the run began; the same after every resume."""
        return str(self._manifest["run_id"])

    @property
    def sealed(self) -> bool:
        """Whether the run is finished and its files are final."""
        return bool(self._manifest.get("sealed"))

    @property
    def manifest(self) -> dict[str, Any]:
        """A copy of the manifest as it stands: open at first, complete once sealed."""
        return dict(self._manifest)

    def has(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return self._resolve(name).is_file()

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file durably: after a crash it is whole or as it was before. Returns its path."""
        target = self._writable(name)
        write_durably(target, data)
        return target

    def read_bytes(self, name: str) -> bytes:
        """Read a file; in a sealed run its SHA-256 must be the one in the manifest.

        Raises:
            UserError: the file is missing, or is not the one that was sealed.
        """
        try:
            data = self._resolve(name).read_bytes()
        except OSError as error:
            state = "" if self.sealed else "; the run is not finished: continue it with train --resume --out"
            raise UserError(f"{self.path}: cannot read {name}: {error.strerror}{state}") from error
        listed = self._manifest.get("files", {}).get(name)
        if self.sealed and (listed is None or listed["sha256"] != sha256(data)):
            raise UserError(f"{self.path}: {name} is damaged: it is not the file that the manifest lists")
        return data

    def write_json(self, name: str, record: Mapping[str, Any]) -> Path:
        """Write a JSON object; ``schema_version`` is added and an infinite number becomes ``"inf"``."""
        return self.write_bytes(name, json_document(record))

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object; raises :class:`UserError` where it is missing or damaged."""
        return parse_json(self.read_bytes(name), f"{self.path}/{name}")

    def write_tensors(self, name: str, tensors: Mapping[str, Any]) -> Path:
        """Write numpy arrays or torch tensors by name as a safetensors file."""
        return self.write_bytes(name, tensor_bytes(tensors))

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Read a safetensors file; raises :class:`UserError` where it is missing or damaged."""
        return parse_tensors(self.read_bytes(name), f"{self.path}/{name}")

    def append_jsonl(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one line to a journal. It survives the end of the process; sealing makes it durable."""
        descriptor = os.open(self._writable(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            write_all(descriptor, json_line(record))
        finally:
            os.close(descriptor)

    def save_stage(self, name: str, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Checkpoint a stage: tensors and facts become durable together, with a SHA-256 over both."""
        path = self._stage_path(name)
        self._refuse_sealed()
        write_durably(path, checkpoint.pack(name, tensors, meta))

    def load_stage(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Read a checkpoint back; ``None`` where the stage was not reached.

        Raises:
            UserError: the checkpoint is damaged; the message names its file.
        """
        path = self._stage_path(name)
        if not path.exists():
            return None
        return checkpoint.unpack(name, path.read_bytes(), str(path))

    def require_stage(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read a checkpoint that another one says is there.

        Raises:
            UserError: it is missing or damaged; the message names its file.
        """
        found = self.load_stage(name)
        if found is None:
            raise UserError(
                f"checkpoint {self._stage_path(name)} is missing; resume the run to repeat that stage"
            )
        return found

    def has_stage(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, sound or not."""
        return self._stage_path(name).exists()

    def scratch(self, name: str) -> Path:
        """A folder for what may be lost, made by who fills it; sealing removes it."""
        self._refuse_sealed()
        return self._stage_path(name).with_suffix(".scratch")

    def seal(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Finish the run: list and flush every file, write the final manifest, remove the checkpoints.

        Args:
            record: facts for the manifest (configuration, versions, result, ...), beside what was kept there.

        Returns:
            The manifest as written, with ``files`` (name -> SHA-256 and size in bytes) and ``sealed: true``.
        """
        self._refuse_sealed()
        self._remove_unfinished_writes()
        self._manifest = manifest.write(self.path, {**self._manifest, **record, "sealed": True})
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        sync_directory(self.path)
        return self.manifest

    def discard(self) -> None:
        """Remove a run that was just begun and holds its manifest alone: its place is free again."""
        self._refuse_sealed()
        (self.path / MANIFEST).unlink()
        if not any(self.path.iterdir()):
            self.path.rmdir()
        self.close()

    def close(self) -> None:
        """Give the lock back; reading still works."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resolve(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ValueError(f"{name!r} is not a relative path inside the run directory")
        return self.path.joinpath(*parts)

    def _writable(self, name: str) -> Path:
        target = self._resolve(name)
        if PurePosixPath(name).parts[0] in (MANIFEST, CHECKPOINTS):
            raise ValueError(f"{name} is written by seal and save_stage alone")
        self._refuse_sealed()
        make_private_directory(target.parent)
        return target

    def _refuse_sealed(self) -> None:
        if self.sealed:
            raise UserError(f"run {self.path} is sealed and does not change; start a new run")
        if self._release is None or not self._release.alive:
            raise UserError(f"run {self.path} is open for reading only")

    def _stage_path(self, name: str) -> Path:
        if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name[0] == ".":
            raise ValueError(f"stage name {name!r}: expected letters, digits, '-', '_' and '.'")
        return self.path / CHECKPOINTS / f"{name}.stage"


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"another process is working in {path}; wait for it to end") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
