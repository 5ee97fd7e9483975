"""What `curve` does beyond its runs: audits of them, and one further run that is taken apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.grid import say

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.report.comparison import Outcome
    from mosaic_secure.report.comparison_request import Cell
    from mosaic_secure.report.curve.point import Point

Failures = list[dict[str, str]]


def check_further(cells: Sequence[Cell], audit: bool, retrain: bool, ablate: bool) -> None:
    """Refuse what cannot be looked at, before the first run.

    Raises:
        UserError: one line that says what would be right.
    """
    from mosaic_secure.errors import UserError

    public = cells[0].config.is_public
    if retrain and not audit:
        raise UserError("--retrain: is a part of an audit; add --audit")
    if audit and not public:
        raise UserError(
            "--audit: runs on private data are audited one by one, where their records are; leave it out, "
            "and use mosaic-secure audit"
        )
    if ablate and not public:
        raise UserError(
            "--ablate: makes one further run, and on private data that is a release; leave it out"
        )


def audit_all(folder: Path, outcomes: Sequence[Outcome], retrain: bool, failed: Failures) -> None:
    """Audit every run of Mosaic that has no such audit yet; what cannot be audited is added to `failed`."""
    from cli.progress import shown
    from mosaic_secure.report.comparison import in_one_line, recorded
    from mosaic_secure.report.comparison_request import REFERENCE
    from mosaic_secure.report.curve.audits import audit_run, claim_without_noise, finished_audit
    from mosaic_secure.report.remaining import in_words

    cells = [done.cell for done in outcomes if done.measured is not None and done.cell.method == REFERENCE]
    missing = [cell for cell in cells if finished_audit(folder, cell, retrain) is None]
    started = time.monotonic()
    for number, cell in enumerate(missing):
        left = (time.monotonic() - started) / number * (len(missing) - number) if number else 0.0
        more = f"; about {in_words(left)} left" if number else ""
        say(f"[audit {number + 1}/{len(missing)}] {cell.slug}{more}")
        try:
            with shown() as progress:
                audit_run(folder, cell, retrain, claim_without_noise(cells), progress)
        except Exception as error:  # a long sweep is not lost to one audit
            failed.append({"run": f"audit of {cell.slug}", "reason": recorded(cell, error)})
            say(f"[audit {number + 1}/{len(missing)}] {cell.slug} failed: {in_one_line(error)}")


def ablate_one(
    folder: Path, point: Point | None, outcomes: Sequence[Outcome], ledger_dir: Path | None, failed: Failures
) -> None:
    """Take one further run apart, at the epsilon of a point, unless that was done before."""
    from cli.progress import shown
    from mosaic_secure.engine.local import train
    from mosaic_secure.report.comparison import in_one_line, recorded
    from mosaic_secure.report.curve.ablation import ablate, finished_ablation

    if point is None or finished_ablation(folder, point):
        return
    same = (point.row.method, point.epsilon)
    cell = next(done.cell for done in outcomes if (done.cell.method, done.cell.epsilon) == same)

    def run(config: RunConfig, path: Path, resume: bool) -> None:
        with shown() as progress:
            train(config, out=path, resume=resume, ledger_dir=ledger_dir, progress=progress, ablate=True)

    say(f"[ablation] one further run at epsilon {point.epsilon:g}")
    try:
        ablate(folder, cell, run)
    except Exception as error:
        failed.append({"run": f"ablation at epsilon {point.epsilon:g}", "reason": recorded(cell, error)})
        say(f"[ablation] failed: {in_one_line(error)}")
