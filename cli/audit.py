"""`mosaic-secure audit`: attack a sealed run, and report what the attacks found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import VERDICT_FAILED, Interrupted, terminate_as_interrupt
from cli.output import print_json, print_table

if TYPE_CHECKING:
    from mosaic_secure.audit.run_audit import Audit

EXAMPLE = "Example: mosaic-secure audit runs/first --retrain"


def audit(
    run: options.RunPath,
    claim: Annotated[
        float | None,
        typer.Option(
            metavar="EPSILON",
            help="What is tested; to be named for a run without noise.",
            show_default="the run's",
        ),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Make a fresh run with canaries: only that can refute the claim."),
    ] = False,
    canaries: Annotated[
        int, typer.Option(metavar="NUMBER", help="How many canaries --retrain plants.")
    ] = 500,
    seed: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Seed of all that the audit draws.", show_default="drawn anew"),
    ] = None,
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> None:
    """Attack a sealed run on public data, and leave what was found in RUN/audits.

    RUN is a run directory. Exit status 3 if the claim is refuted.
    """
    from cli.progress import shown
    from mosaic_secure.audit.run_audit import REPORT, AuditRequest
    from mosaic_secure.audit.run_audit import audit as audit_run

    request = AuditRequest(claim, retrain, canaries, seed, data_root)
    try:
        with terminate_as_interrupt(), shown() as progress:
            found = audit_run(run, request, progress)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing of this audit is kept: start it again") from None
    _show(found, found.path / REPORT)
    if json:
        print_json({**found.to_dict(), "report": str(found.path / REPORT)})
    if found.verdict.outcome == "fail":
        raise typer.Exit(VERDICT_FAILED)


def _show(found: Audit, report: Path) -> None:
    print(found.verdict.sentence)
    print()
    for check in found.checks:
        print(f"{_word(check.passed):7} {check.name}: {check.found}")
    print()
    rows = []
    for kind, attacks in (("model", found.membership), ("synthetic", found.synthetic)):
        for name, summary in attacks.items():
            caught = next((c for c in summary.caught if c.fpr == summary.resolvable_fpr), None)
            rows.append(
                {
                    "attack (describes, no verdict)": f"{kind}: {name}",
                    "area": f"{summary.area:.3f}",
                    "95 %": f"{summary.area_interval.low:.3f} to {summary.area_interval.high:.3f}",
                    "caught": "-" if caught is None else f"{100 * caught.rate.value:.1f} %",
                    "at false alarms": "-" if caught is None else f"{100 * caught.fpr:g} %",
                    "at most": "-" if caught is None else f"{100 * caught.at_most:.1f} %",
                }
            )
    print_table(rows)
    print()
    made = found.rehearsal
    if made is not None:
        counts = made.guesses
        said = f"{counts.correct} of {counts.made} guesses about {counts.canaries} canaries were right"
        print(f"{said}: epsilon is at least {made.lower_bound:.3g} at {100 * made.confidence:g} % confidence")
        print(f"(so many canaries can prove {found.provable:.3g} at most)")
    print(f"not tested: {'; '.join(found.not_tested)}")
    print(f"report: {report}")


def _word(passed: bool | None) -> str:
    return {True: "holds", False: "BROKEN", None: "-"}[passed]
