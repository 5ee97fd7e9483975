"""`mosaic-secure doctor`: whether a machine, and what lies on it of a federation, will work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.errors import FAILED
from cli.output import print_json

EXAMPLE = "Example: mosaic-secure doctor kit"


def doctor(
    path: Annotated[Path | None, typer.Argument(metavar="FEDERATION|KIT", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """Check this machine, and a federation's folder or a kit on it; exit status 1 if there is a problem.

    Looks at versions, programs, GPU, memory and disk; then at modes of secrets, certificates, port or
    connection, clock, policy and ledger. Nothing is changed.
    """
    from mosaic_secure.deployment.doctor import diagnose, worst

    findings = diagnose(path)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.status.ljust(7)}  {finding.name.ljust(width)}  {finding.found}")
        if finding.advice:
            print(f"{'':7}  {'':{width}}  -> {finding.advice}")
    verdict = worst(findings)
    counted = {status: sum(f.status == status for f in findings) for status in ("problem", "warning")}
    print(f"{counted['problem']} problem(s), {counted['warning']} warning(s)")
    if json:
        print_json({"verdict": verdict, "findings": [finding.to_dict() for finding in findings]})
    if verdict == "problem":
        raise typer.Exit(FAILED)
