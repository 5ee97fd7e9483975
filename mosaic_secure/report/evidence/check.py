"""Check a pack offline: files against the index, the index against its signature, the runs in themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.report.evidence.archive import PackFiles, digest_of, is_pack, opened, read_file, shown
from mosaic_secure.report.evidence.contents import (
    AUDIT,
    AUDIT_FILES,
    DOCUMENTS,
    LEDGERS,
    METRICS,
    STATEMENT,
)
from mosaic_secure.report.evidence.curves import RECORD, Told, curve_problems
from mosaic_secure.report.evidence.format import INDEX, SIGNATURE, Index, read_index, signature_problem
from mosaic_secure.report.evidence.ledgers import check_ledgers
from mosaic_secure.runs import manifest
from mosaic_secure.runs.encoding import sha256

__all__ = ["PackReport", "check_pack"]

_MOST_INDEX = 16 << 20
_MOST_SIGNATURE = 1 << 16
_MOST_DOCUMENT = 64 << 20


@dataclass(frozen=True)
class PackReport:
    """What a check found.

    Attributes:
        pack: its path. files, runs, audits, ledgers: how many were checked.
        signer: the public key that signed the index, in hexadecimal; None if no signature holds.
        pinned: whether the caller said whose signature it must be.
        problems: one sentence for each thing that is wrong, beginning with the file; empty when all is well.
    """

    pack: str
    files: int
    runs: int
    audits: int
    ledgers: int
    curves: int
    signer: str | None
    pinned: bool
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "pack": self.pack,
            "verdict": "pass" if self.passed else "fail",
            "files": self.files,
            "runs": self.runs,
            "audits": self.audits,
            "ledgers": self.ledgers,
            "curves": self.curves,
            "signer": self.signer,
            "signer_pinned": self.pinned,
            "problems": list(self.problems),
        }


def check_pack(path: str | Path, signer: bytes | None = None) -> PackReport:
    """Check the pack in a folder or a zip; nothing is fetched, unpacked or run.

    Args:
        signer: the 32-byte public key whose signature it must be; without it any consistent one passes.

    Raises:
        UserError: there is no pack at `path`.
    """
    path = Path(path)
    if not is_pack(path):
        raise UserError(f"{path} is no evidence pack: it has no {INDEX}")
    with opened(path) as files:
        return _Check(path, files, signer).report()


class _Check:
    """One pass over a pack, collecting problems."""

    def __init__(self, path: Path, files: PackFiles, signer: bytes | None) -> None:
        self._path = path
        self._files = files
        self._pin = signer
        self._problems = list(files.problems)
        self._signer: str | None = None
        self._good: set[str] = set()
        self._counts = {"files": 0, "runs": 0, "audits": 0, "ledgers": 0, "curves": 0}
        self._told: dict[str, Told] = {}

    def report(self) -> PackReport:
        if not {INDEX, SIGNATURE} & self._files.sizes.keys():
            raise UserError(f"{self._path} is no evidence pack: it has no {INDEX}")
        index = self._index()
        if index is not None:
            self._signature(index)
            self._compare(index)
            for run in index.content["runs"]:
                try:
                    self._run(run, index)
                except (UserError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
                    self._say(f"runs/{run['run_id']}", "its documents are not what mosaic-secure writes")
            for folder in index.curves:
                self._curve(folder, index)
        else:
            self._signature(None)
        return PackReport(
            pack=str(self._path),
            signer=self._signer,
            pinned=self._pin is not None,
            problems=tuple(self._problems),
            **self._counts,
        )

    def _index(self) -> Index | None:
        data = self._special(INDEX, _MOST_INDEX)
        try:
            return None if data is None else read_index(data)
        except UserError as error:
            self._say(INDEX, _without_name(error, INDEX))
            return None
        except RecursionError:
            self._say(INDEX, "is nested too deeply")
            return None

    def _signature(self, index: Index | None) -> None:
        data = self._special(SIGNATURE, _MOST_SIGNATURE)
        if index is None:
            return
        problem = "" if data is None else signature_problem(data, index)
        if problem:  # which of the two was changed, nobody can tell
            self._say(SIGNATURE, problem)
            self._say(INDEX, f"is not what {SIGNATURE} signs")
        elif problem is None:
            self._signer = index.public.hex()
        if self._pin is not None and self._pin != index.public:
            self._say(SIGNATURE, f"signed by {index.public.hex()}, not by {self._pin.hex()}")

    def _special(self, name: str, most: int) -> bytes | None:
        if name not in self._files.sizes:
            self._say(name, "missing")
            return None
        self._counts["files"] += 1
        data = read_file(self._files, name, most)
        if data is None:
            self._say(name, "cannot be read, or is far too large")
        return data

    def _compare(self, index: Index) -> None:
        present = self._files.sizes.keys() - {INDEX, SIGNATURE}
        for name in sorted(index.files.keys() - present):
            self._say(name, "missing")
        for name in sorted(present - index.files.keys()):
            self._say(name, "not in the index")
        for name in sorted(present & index.files.keys()):
            self._counts["files"] += 1
            digest, length = index.files[name]
            if self._files.sizes[name] != length:
                self._say(name, f"{self._files.sizes[name]} bytes, {length} in the index")
                continue
            found = digest_of(self._files, name, length)
            if found == digest:
                self._good.add(name)
            else:
                self._say(name, "cannot be read" if found is None else "SHA-256 differs from the index")

    def _run(self, entry: Mapping[str, Any], index: Index) -> None:
        """The run in itself: its manifest, what the manifest lists of this pack, its ledgers, its audits."""
        self._counts["runs"] += 1
        folder = f"runs/{entry['run_id']}"
        content = self._manifest(f"{folder}/{manifest.MANIFEST}", index)
        if content is None:
            return
        own = f"{folder}/{manifest.MANIFEST}"
        if (content["run_id"], content["digest"], content["config_hash"]) != (
            entry["run_id"],
            entry.get("manifest_digest"),
            entry.get("config_hash"),
        ):
            self._say(own, "is of another run than the index says")
            return
        self._listed(folder, content, DOCUMENTS, index)
        statement, ledgers = (self._json(f"{folder}/{name}", index) for name in (STATEMENT, LEDGERS))
        if statement is not None and ledgers is not None:
            wrong = check_ledgers(ledgers, statement, str(content["run_id"]), str(content["config_hash"]))
            for problem in wrong:
                self._say(f"{folder}/{LEDGERS}", problem)
            self._counts["ledgers"] += len(ledgers["excerpts"]) if not wrong else 0
            if (entry.get("epsilon"), entry.get("delta")) != (statement["epsilon"], statement["delta"]):
                self._say(INDEX, f"names another guarantee of run {entry['run_id']} than {STATEMENT}")
        records = [
            self._audit(f"{folder}/audits/{audit}", content, index) for audit in self._audits(folder, index)
        ]
        metrics = self._document(f"{folder}/{METRICS}", index)
        if metrics is not None:
            self._told[entry["run_id"]] = Told.of(content, metrics, [r for r in records if r is not None])

    def _curve(self, folder: str, index: Index) -> None:
        """The numbers of a sweep against those of its runs."""
        self._counts["curves"] += 1
        record = self._json(f"{folder}/{RECORD}", index)
        for problem in () if record is None else curve_problems(record, self._told):
            self._say(f"{folder}/{RECORD}", problem)

    def _audits(self, folder: str, index: Index) -> list[str]:
        inside = [name.split("/") for name in index.files if name.startswith(f"{folder}/audits/")]
        return sorted({parts[3] for parts in inside})

    def _audit(self, folder: str, run: Mapping[str, Any], index: Index) -> dict[str, Any] | None:
        self._counts["audits"] += 1
        content = self._manifest(f"{folder}/{manifest.MANIFEST}", index)
        if content is not None:
            self._listed(folder, content, AUDIT_FILES, index)
        record = self._json(f"{folder}/{AUDIT}", index)
        if record is None:
            return None
        if record.get("client_confidential") is not False:
            self._say(f"{folder}/{AUDIT}", "is client-confidential, and must not be in a pack")
        if (record.get("run_id"), record.get("run_digest")) != (run["run_id"], run["digest"]):
            self._say(f"{folder}/{AUDIT}", "is of another run")
        return record

    def _listed(self, folder: str, content: Mapping[str, Any], names: tuple[str, ...], index: Index) -> None:
        """Every document that a manifest lists is here, as it was sealed, and no other passes for one."""
        for name in names:
            listed, here = content["files"].get(name), index.files.get(f"{folder}/{name}")
            if listed is None and here is None:
                continue
            if listed is None or here is None or (listed["sha256"], listed["bytes"]) != here:
                self._say(f"{folder}/{name}", f"is not what {folder}/{manifest.MANIFEST} lists")

    def _manifest(self, name: str, index: Index) -> dict[str, Any] | None:
        data = self._document(name, index)
        if data is None:
            return None
        try:
            content = manifest.parse(data, name)
        except UserError as error:
            self._say(name, _without_name(error, name))
            return None
        if not content["sealed"]:
            self._say(name, "is not of a sealed run")
            return None
        return content

    def _json(self, name: str, index: Index) -> dict[str, Any] | None:
        data = self._document(name, index)
        if data is None:
            return None
        try:
            content = json.loads(data)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            self._say(name, "is not JSON")
            return None
        return content

    def _document(self, name: str, index: Index) -> bytes | None:
        """A file that the index lists and that is as listed; what is not has been named already."""
        if name not in index.files:
            self._say(name, "missing, and in no index")
        if name not in self._good:
            return None
        data = read_file(self._files, name, min(index.files[name][1], _MOST_DOCUMENT))
        if data is None or sha256(data) != index.files[name][0]:
            self._say(name, "cannot be read, or is far too large")
            return None
        return data

    def _say(self, name: str, problem: str) -> None:
        self._problems.append(f"{shown(name)}: {problem}")


def _without_name(error: UserError, name: str) -> str:
    return str(error).removeprefix(name).removeprefix(":").strip()
