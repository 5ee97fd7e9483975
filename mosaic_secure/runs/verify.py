"""Check a sealed run: every byte against its manifest, every logged message against the trust map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.runs import manifest

MESSAGES = "messages.jsonl"


@dataclass(frozen=True)
class VerifyReport:
    """What a check found.

    Attributes:
        run: path of the run.
        files: how many listed files were compared, audits included.
        audits: how many audit folders were checked.
        messages: how many logged messages were checked against the trust map.
        problems: one sentence for each thing that is not as it was sealed; empty when all is well.
    """

    run: str
    files: int
    audits: int
    messages: int
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "run": self.run,
            "verdict": "pass" if self.passed else "fail",
            "files": self.files,
            "audits": self.audits,
            "messages": self.messages,
            "problems": list(self.problems),
        }


def verify(path: str | Path) -> VerifyReport:
    """Compare every file of a run, and of its audits, with the manifest that lists it, and walk its messages.

    Raises:
        UserError: there is no run at `path`, or its manifest cannot be read (then nothing can be compared).
    """
    path = Path(path)
    files, problems = _verify_directory(path, "")
    # A name with a dot is an audit at work, or what is left of one that was killed; the next one removes it.
    folders = (entry for entry in path.glob(f"{manifest.AUDITS}/*") if entry.is_dir())
    audits = sorted(entry for entry in folders if not entry.name.startswith("."))
    for audit in audits:
        prefix = f"{manifest.AUDITS}/{audit.name}/"
        try:
            more, found = _verify_directory(audit, prefix)
        except UserError as error:
            more, found = 0, [f"{prefix}: {error}"]
        files += more
        problems += found
    messages, found = _verify_messages(path / MESSAGES)
    return VerifyReport(str(path), files, len(audits), messages, tuple(problems + found))


def _verify_messages(path: Path) -> tuple[int, list[str]]:
    if not path.is_file():
        return 0, []
    from mosaic_secure.protocol.log import walk

    try:
        report = walk(path)
    except (OSError, UnicodeDecodeError):
        return 0, [f"{MESSAGES}: cannot be read as a message log"]
    return report.messages, [f"{MESSAGES}: {problem}" for problem in report.problems]


def _verify_directory(directory: Path, prefix: str) -> tuple[int, list[str]]:
    content = manifest.read(directory)
    if not content["sealed"]:
        return 0, [f"{prefix}{manifest.MANIFEST}: not sealed; the run is not finished"]
    problems = []
    if (directory / manifest.CHECKPOINTS).exists():
        problems.append(f"{prefix}{manifest.CHECKPOINTS}: left over; train --resume removes it")
    expected = content["files"]
    present = dict(manifest.listed_files(directory))
    for name in sorted(expected.keys() - present.keys()):
        problems.append(f"{prefix}{name}: missing")
    for name in sorted(present.keys() - expected.keys()):
        problems.append(f"{prefix}{name}: not listed in the manifest")
    for name in sorted(present.keys() & expected.keys()):
        problem = _compare(present[name], expected[name])
        if problem:
            problems.append(f"{prefix}{name}: {problem}")
    return len(expected), problems


def _compare(path: Path, entry: dict[str, Any]) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "not a plain file"
    try:
        found = manifest.file_entry(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found["bytes"] != entry["bytes"]:
        return f"{found['bytes']} bytes, sealed with {entry['bytes']}"
    return None if found["sha256"] == entry["sha256"] else "SHA-256 differs from the one that was sealed"
