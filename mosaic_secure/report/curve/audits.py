"""Audits of a sweep's runs: made where one is missing, read where one of the same kind was finished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_secure.errors import UserError
from mosaic_secure.report.attack_tables import ILLUSTRATIONS
from mosaic_secure.report.comparison import RUNS
from mosaic_secure.report.comparison_request import Cell
from mosaic_secure.report.curve.cost import FALSE_ALARMS
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory

if TYPE_CHECKING:
    from mosaic_secure.progress import ProgressCallback

__all__ = ["FAIL", "Attacked", "Audited", "audit_run", "claim_without_noise", "finished_audit"]

FAIL = "fail"


@dataclass(frozen=True)
class Attacked:
    """Members that one attack caught at 1 % false alarms: share and 95 % interval, in [0, 1]."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Audited:
    """What an audit of one run found, as far as a curve tells it.

    Attributes:
        attacks: attack -> what it caught; those whose records tell a rate of 1 % apart.
        verdict: of the audit. sentence: its reason.
        lower_bound, provable: epsilon shown from below by a fresh run with canaries, and the most that it
            could have shown; None without one.
        path: folder of the audit, relative to that of the sweep.
    """

    attacks: Mapping[str, Attacked]
    verdict: str
    sentence: str
    lower_bound: float | None
    provable: float | None
    path: str


def claim_without_noise(cells: Sequence[Cell]) -> float:
    """What a run without noise is held against: the largest budget of the sweep that promises something."""
    return max((cell.epsilon for cell in cells if math.isfinite(cell.epsilon)), default=8.0)


def finished_audit(folder: Path, cell: Cell, retrain: bool) -> Audited | None:
    """The newest finished audit of a run that looked at what is asked for; or None.

    One that refuted the run's own claim comes before all others, and is followed by those with canaries.

    Args:
        retrain: whether a fresh run with canaries must be part of it; without noise there is none.
    """
    place = folder / RUNS / cell.slug
    of = manifest.read(place)
    found = []
    for path in sorted((place / manifest.AUDITS).glob("*")):
        if path.name.startswith("."):
            continue  # at work, or left by one that was killed
        try:
            record = json.loads(RunDirectory.open(path).read_bytes("audit.json"))
        except (UserError, OSError, ValueError):
            continue  # not whole: it is made anew
        named = (record.get("schema_version"), record.get("run_id"), record.get("run_digest"))
        if named != (2, of["run_id"], of["digest"]):
            continue
        tested = record["epsilon_lower_bound"] is not None
        enough = not retrain or tested or cell.config.no_noise
        own = cell.config.no_noise or record["epsilon_claimed"] == record["epsilon_of_the_run"]
        if own and (enough or record["verdict"] == FAIL):
            found.append(((record["verdict"] == FAIL, tested, path.name), path, record))
    if not found:
        return None
    _, path, record = max(found, key=lambda one: one[0])
    return _audited(record, path.relative_to(folder))


def audit_run(
    folder: Path, cell: Cell, retrain: bool, claim: float, progress: ProgressCallback | None
) -> Audited:
    """Audit a sealed run of a sweep on public data.

    Args:
        retrain: make a fresh run with canaries, which can refute the claim; never without noise.
        claim: what a run without noise is held against.
    """
    from mosaic_secure.audit.request import AuditRequest
    from mosaic_secure.audit.run_audit import audit

    no_noise = cell.config.no_noise
    request = AuditRequest(
        claim=claim if no_noise else None,
        retrain=retrain and not no_noise,
        data_root=cell.config.data.root,
    )
    made = audit(folder / RUNS / cell.slug, request, progress)
    return _audited(made.to_dict(), made.path.relative_to(folder))


def _audited(record: Mapping[str, Any], path: Path) -> Audited:
    groups = {"model": record["membership"], "synthetic": record["synthetic"]}
    attacks = {}
    for group, found in groups.items():
        for name, summary in found.items():
            row = next(row for row in summary["caught"] if row["fpr"] == FALSE_ALARMS)
            if row["rate"] is not None and name not in ILLUSTRATIONS:
                interval = row["rate"]["interval"]
                attacks[f"{group}: {name}"] = Attacked(
                    row["rate"]["value"], interval["low"], interval["high"]
                )
    return Audited(
        attacks,
        record["verdict"],
        record["sentence"],
        record["epsilon_lower_bound"],
        record["epsilon_provable_at_most"],
        path.as_posix(),
    )
