"""`mosaic-secure verify`: check that a sealed run is what it was."""

from __future__ import annotations

import typer

from cli import options
from cli.errors import VERDICT_FAILED
from cli.output import print_json

EXAMPLE = "Example: mosaic-secure verify runs/first"


def verify(run: options.RunPath, json: options.Json = False) -> None:
    """Check every file of a run against its manifest and every message against the trust map.

    RUN is a run directory.
    """
    from mosaic_secure.runs.verify import verify as verify_run

    report = verify_run(run)
    for problem in report.problems:
        print(problem)
    verdict = "pass" if report.passed else f"fail, {len(report.problems)} problem(s)"
    print(f"{run}: {verdict}; {report.files} files, {report.messages} messages, {report.audits} audits")
    if json:
        print_json(report.to_dict())
    if not report.passed:
        raise typer.Exit(VERDICT_FAILED)
