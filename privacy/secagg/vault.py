"""What the key authority keeps on its own disk: keys of open runs, decrypted sums, and anchors of ledgers.

keys/<run>/run.json, public.ctx, secret.ctx (mode 0600, gone once closed), closed
sums/<run>/<round>/set.json (written before decryption), outcome.json, values.bin
received/<run>/<round>/ contributions of the round under way; may be deleted when there is none
anchors.json
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import AggregationError
from privacy.secagg.spool import Spool
from privacy.storage import make_private_directory, sync_directory, write_durably

__all__ = ["Vault", "check_name"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(field: str, name: object) -> str:
    """`name` if it may serve as an id (and as a file name); raises AggregationError otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise AggregationError(
            f"{field}: {name!r}; must be 1 to 128 letters, digits, dots, dashes or underscores "
            "and begin with a letter or digit"
        )
    return name


class Vault:
    """Files below `home`, each written whole and durable before a method returns, but for `received`."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        make_private_directory(self.home)

    def __repr__(self) -> str:
        return f"Vault({str(self.home)!r})"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes and threads that use this vault."""
        descriptor = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def run(self, run_id: str) -> dict[str, object] | None:
        """The public description of an opened run, or None."""
        return self._read(self._keys(run_id) / "run.json")

    def save_run(self, run_id: str, description: Mapping[str, object], public: bytes, secret: bytes) -> None:
        """Store a run's keys, then its description, whose presence makes the run opened."""
        folder = self._keys(run_id)
        write_durably(folder / "secret.ctx", secret)
        write_durably(folder / "public.ctx", public)
        write_durably(folder / "run.json", canonical_json(description))

    def public_context(self, run_id: str) -> bytes:
        """The stored public context of an opened run."""
        return self._bytes(self._keys(run_id) / "public.ctx")

    def secret_context(self, run_id: str) -> bytes:
        """The context with the secret key of an open run."""
        if self.is_closed(run_id):
            raise AggregationError(f"run {run_id}: is closed and its secret key destroyed")
        return self._bytes(self._keys(run_id) / "secret.ctx")

    def is_closed(self, run_id: str) -> bool:
        """Whether the run's secret key was destroyed."""
        return (self._keys(run_id) / "closed").exists()

    def destroy_secret(self, run_id: str) -> None:
        """Overwrite and remove the secret key of a run, and mark the run closed. May be repeated."""
        folder = self._keys(run_id)
        write_durably(folder / "closed", b"")
        path = folder / "secret.ctx"
        if path.exists():
            with open(path, "r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            sync_directory(folder)
        shutil.rmtree(self._received(run_id), ignore_errors=True)

    def received(self, run_id: str, round_id: str) -> Spool:
        """Contributions to a round, until it is decided, another round begins, or the run is closed."""
        return Spool(self._received(run_id) / check_name("round_id", round_id))

    def drop_received(self, run_id: str, but: str) -> None:
        """Remove the contributions to all rounds of a run but one: rounds follow each other."""
        folder = self._received(run_id)
        for other in folder.iterdir() if folder.is_dir() else ():
            if other.name != but:
                shutil.rmtree(other, ignore_errors=True)

    def claim(self, run_id: str, round_id: str, request: Mapping[str, object]) -> dict[str, object]:
        """Store the request of a round unless there is one already; returns the stored one."""
        path = self._sums(run_id, round_id) / "set.json"
        if not path.exists():
            write_durably(path, canonical_json(request), replace=False)
        stored = self._read(path)
        if stored is None:
            raise AggregationError(f"{path}: cannot be read")
        return stored

    def outcome(self, run_id: str, round_id: str) -> tuple[dict[str, object], bytes] | None:
        """The stored outcome of a round and its values (empty for an aborted round), or None."""
        folder = self._sums(run_id, round_id)
        outcome = self._read(folder / "outcome.json")
        if outcome is None:
            return None
        values = b"" if outcome.get("aborted") else self._bytes(folder / "values.bin")
        if hashlib.sha256(values).hexdigest() != outcome.get("values"):
            raise AggregationError(f"{folder}: the stored sum is damaged; restore it from a backup")
        return outcome, values

    def save_outcome(self, run_id: str, round_id: str, outcome: Mapping[str, object], values: bytes) -> None:
        """Store values, then the outcome, whose presence makes the round decided."""
        folder = self._sums(run_id, round_id)
        if values:
            write_durably(folder / "values.bin", values)
        digest = hashlib.sha256(values).hexdigest()
        write_durably(folder / "outcome.json", canonical_json({**outcome, "values": digest}))

    def anchors(self) -> dict[str, object]:
        """Anchors by public key of the ledger (hex)."""
        stored = self._read(self.home / "anchors.json") or {"anchors": {}}
        anchors = stored.get("anchors")
        if not isinstance(anchors, dict):
            raise AggregationError(f"{self.home / 'anchors.json'}: is damaged; restore it from a backup")
        return anchors

    def save_anchors(self, anchors: Mapping[str, object]) -> None:
        """Replace all anchors."""
        write_durably(self.home / "anchors.json", canonical_json({"schema_version": 1, "anchors": anchors}))

    def _keys(self, run_id: str) -> Path:
        return self.home / "keys" / check_name("run_id", run_id)

    def _received(self, run_id: str) -> Path:
        return self.home / "received" / check_name("run_id", run_id)

    def _sums(self, run_id: str, round_id: str) -> Path:
        return self.home / "sums" / check_name("run_id", run_id) / check_name("round_id", round_id)

    @staticmethod
    def _bytes(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise AggregationError(f"{path}: cannot be read ({error.strerror}); restore it") from error

    def _read(self, path: Path) -> dict[str, object] | None:
        if not path.exists():
            return None
        try:
            return parse_canonical(self._bytes(path))
        except ValueError as error:
            raise AggregationError(f"{path}: is damaged; restore it from a backup") from error
