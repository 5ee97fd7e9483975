"""What of a sealed run goes into a pack, and what is refused.

Documents go in: manifest, guarantee, signed ledgers, scores on public records, the description of the model,
audits. Weights, synthetic records, lists of members, pictures of who held what and the message log stay where
they are; the manifest names each by its hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.report.evidence.format import MOST_BYTES, RUN_ID, is_safe_name
from mosaic_secure.report.evidence.ledgers import check_ledgers
from mosaic_secure.runs import manifest
from mosaic_secure.runs.artefacts import GLOBAL_MODEL
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import parse_json
from mosaic_secure.runs.verify import verify
from privacy.heads import Head

__all__ = [
    "AUDIT",
    "DOCUMENTS",
    "LEDGERS",
    "METRICS",
    "STATEMENT",
    "PackedAudit",
    "PackedRun",
    "Score",
    "read_run",
]

STATEMENT, LEDGERS, METRICS = "privacy.json", "ledgers.json", "metrics.jsonl"
DOCUMENTS = (STATEMENT, LEDGERS, METRICS, GLOBAL_MODEL)
AUDIT = "audit.json"
AUDIT_FILES = (AUDIT, "report.html", "audit.pdf")
AUDIT_SCHEMA = 2
PUBLIC_TEST = "public test"
GRID = "synthetic/grid.png"
_SCORED = ("accuracy", "balanced accuracy", "auc")


@dataclass(frozen=True)
class Score:
    """One number of metrics.jsonl that was measured on public test records, from 0 to 1."""

    metric: str
    of: str
    value: float


@dataclass(frozen=True)
class PackedAudit:
    """An audit that may be shared: its id, what audit.json holds, and its files."""

    id: str
    record: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class PackedRun:
    """What a pack says of one run.

    Attributes:
        name: of its directory. manifest, statement: what manifest.json and privacy.json hold.
        model: what model.json holds; None for a run without a global model.
        scores: on public test records; none where there are no such records.
        documents: file name -> bytes, as they were sealed. audits: in order of their ids.
        picture: the run's grid of synthetic records, of public data only.
    """

    name: str
    manifest: Mapping[str, Any]
    statement: Mapping[str, Any]
    model: Mapping[str, Any] | None
    scores: tuple[Score, ...]
    documents: Mapping[str, bytes]
    audits: tuple[PackedAudit, ...]
    picture: bytes | None

    @property
    def id(self) -> str:
        """The run's id, which is also its folder in the pack."""
        return str(self.manifest["run_id"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, as plain nested values."""
        return self.manifest["config"]

    @property
    def public(self) -> bool:
        """Whether the training records are public."""
        return self.statement["population"]["visibility"] == "public"

    @property
    def epsilon(self) -> float:
        """The claim."""
        return float(self.statement["epsilon"])

    @property
    def heads(self) -> dict[str, Head]:
        """Client -> the head of its ledger when the run ended."""
        excerpts = json.loads(self.documents[LEDGERS])["excerpts"]
        return {client: Head.from_dict(excerpts[client]["head"]) for client in sorted(excerpts)}

    @property
    def synthetic(self) -> bool:
        """Whether the run releases synthetic records, or what draws them."""
        return any(
            name.startswith(("synthetic/", "generators/", "sampler/")) for name in self.manifest["files"]
        )


def read_run(path: Path) -> PackedRun:
    """Read a sealed run for a pack, after checking every byte of it, its ledgers and its audits.

    Raises:
        UserError: it is no sealed run, it is damaged, its ledgers do not bear out its guarantee, or it holds
            what must not be shown; one line that names the run.
    """
    content = manifest.read(path)
    if not content["sealed"]:
        raise UserError(f"run {path} is not sealed: finish it with train --resume --out {path}")
    if not isinstance(content.get("config"), dict) or STATEMENT not in content["files"]:
        raise UserError(f"{path} is not a run of mosaic-secure train: its manifest lists no {STATEMENT}")
    if not RUN_ID.fullmatch(str(content["run_id"])):
        raise UserError(f"{path}: run_id {str(content['run_id'])[:40]!r}: expected 16 hexadecimal digits")
    problems = verify(path).problems
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"run {path} is damaged, and no evidence: {problems[0]}{more}")
    run = RunDirectory.open(path)
    statement = run.read_json(STATEMENT)
    _refuse_unprotected(path, statement)
    wrong = check_ledgers(run.read_json(LEDGERS), statement, run.run_id, str(content["config_hash"]))
    if wrong:
        raise UserError(f"run {path}: its ledgers do not bear it out: {wrong[0]}")
    listed = content["files"]
    documents = {name: run.read_bytes(name) for name in DOCUMENTS if name in listed}
    documents[manifest.MANIFEST] = (path / manifest.MANIFEST).read_bytes()
    public = statement["population"]["visibility"] == "public"
    return PackedRun(
        name=path.resolve().name,
        manifest=manifest.parse(documents[manifest.MANIFEST], str(path / manifest.MANIFEST)),
        statement=statement,
        model=run.read_json(GLOBAL_MODEL) if GLOBAL_MODEL in listed else None,
        scores=_scores(path, documents[METRICS], content.get("result") or {}),
        documents=documents,
        audits=tuple(_audit(folder, content, public) for folder in _audit_folders(path)),
        picture=run.read_bytes(GRID) if public and GRID in listed else None,
    )


def _refuse_unprotected(path: Path, statement: Mapping[str, Any]) -> None:
    """Where noise hides nothing, even the hashes of what was released tell about private records."""
    if statement["population"]["visibility"] == "public":
        return
    if math.isinf(float(statement["epsilon"])) or not statement["randomness"]["secure"]:
        raise UserError(
            f"run {path}: its data are private and it guarantees nothing (epsilon "
            f"{statement['epsilon']}, secure noise: {statement['randomness']['secure']}); it may not be shown"
        )


def _scores(path: Path, data: bytes, result: Mapping[str, Any]) -> tuple[Score, ...]:
    """The scores that may be told; raises UserError for one that was measured on other records."""
    scores = []
    for line in data.decode().splitlines():
        row = parse_json(line.encode(), f"{path}/{METRICS}")
        if row.get("metric") not in _SCORED or row.get("value") is None:
            continue
        if row["on"] != PUBLIC_TEST:
            raise UserError(
                f"run {path}: {row['metric']} was measured on {row['on']!r}, which may not be told"
            )
        scores.append(Score(row["metric"], str(row["of"]), float(row["value"])))
    told = [
        name for name, value in result.items() if name.endswith(("accuracy", "auc")) and value is not None
    ]
    if told and not scores:
        raise UserError(f"run {path}: its manifest tells {told[0]}, of no public test records")
    return tuple(scores)


def _audit_folders(path: Path) -> list[Path]:
    """As `mosaic-secure verify` finds them: one whose name begins with a dot is not finished."""
    folders = (entry for entry in path.glob(f"{manifest.AUDITS}/*") if entry.is_dir())
    return sorted(entry for entry in folders if not entry.name.startswith("."))


def _audit(folder: Path, run: Mapping[str, Any], public: bool) -> PackedAudit:
    audit = RunDirectory.open(folder)
    if not is_safe_name(folder.name):
        raise UserError(f"audit {folder.name!r}: expected letters, digits, '-', '_' and '.' in its name")
    listed = audit.manifest["files"]
    for name in sorted(listed.keys() - set(AUDIT_FILES)):
        raise UserError(f"audit {folder}: {name} is no file of an audit")
    if AUDIT not in listed:
        raise UserError(f"audit {folder}: its manifest lists no {AUDIT}")
    files = {name: audit.read_bytes(name) for name in sorted(listed)}
    files[manifest.MANIFEST] = (folder / manifest.MANIFEST).read_bytes()
    if sum(map(len, files.values())) > MOST_BYTES:
        raise UserError(f"audit {folder}: larger than a pack may be")
    try:
        record = json.loads(files[AUDIT])
    except ValueError as error:
        raise UserError(f"audit {folder}: {AUDIT} is not JSON") from error
    if not isinstance(record, dict) or record.get("schema_version") != AUDIT_SCHEMA:
        raise UserError(f"audit {folder}: expected schema_version {AUDIT_SCHEMA}; audit the run again")
    if record.get("client_confidential") is not False or not public:
        raise UserError(
            f"audit {folder} is client-confidential: its numbers are statistics of private records, and "
            "enter no pack; move it out of the run"
        )
    if (record.get("run_id"), record.get("run_digest")) != (run["run_id"], run["digest"]):
        raise UserError(f"audit {folder} is of another run")
    return PackedAudit(folder.name, record, files)
