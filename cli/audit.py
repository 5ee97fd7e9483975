"""`mosaic-secure audit`: attack a sealed run, and report what the attacks found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import VERDICT_FAILED, Interrupted, terminate_as_interrupt
from cli.output import print_json, print_table, warn

if TYPE_CHECKING:
    from mosaic_secure.audit.canary_tests import CanaryTest
    from mosaic_secure.audit.findings import Audit
    from mosaic_secure.audit.inversion import Inverted

PRIVATE = "Private data"
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
    fpr: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="False alarms to report first.", show_default="0.01"),
    ] = None,
    classifiers: Annotated[
        bool,
        typer.Option("--classifiers", help="Attack each client's released classifier, with shadow models."),
    ] = False,
    shadows: Annotated[
        int, typer.Option(metavar="NUMBER", help="How many shadow models of each classifier.")
    ] = 64,
    pipelines: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", help="Train so many shadow federations, to attack the global model with."
        ),
    ] = 0,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print the page as well, to audit.pdf beside it.")
    ] = False,
    data_root: options.DataRoot = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The records of a run on private data.", rich_help_panel=PRIVATE),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose those are, if one client's alone; DIR then holds one folder a class.",
            rich_help_panel=PRIVATE,
        ),
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Images like them that were never trained on.", rich_help_panel=PRIVATE
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Where such an audit is left: outside of the run.", rich_help_panel=PRIVATE
        ),
    ] = None,
    ledger_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The ledgers that --retrain is charged to.",
            envvar="MOSAIC_LEDGER_DIR",
            show_envvar=False,
            rich_help_panel=PRIVATE,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Attack a sealed run, and leave what was found in RUN/audits.

    RUN is a run directory. Exit status 3 if the claim is refuted. A run on private data is audited where its
    records are, and what is found is for its clients alone.
    """
    from cli.progress import shown
    from mosaic_secure.audit.request import AuditRequest
    from mosaic_secure.audit.run_audit import REPORT
    from mosaic_secure.audit.run_audit import audit as audit_run

    request = AuditRequest(
        claim=claim,
        retrain=retrain,
        canaries=canaries,
        seed=seed,
        data_root=data_root,
        data=data,
        client=client,
        others=others,
        out=out,
        ledger_dir=ledger_dir,
        classifiers=classifiers,
        shadows=shadows,
        pipelines=pipelines,
        fpr=fpr,
        pdf=pdf,
    )
    try:
        with terminate_as_interrupt(), shown() as progress:
            found = audit_run(run, request, progress)
    except KeyboardInterrupt:
        said = "interrupted; nothing of this audit is kept: start it again"
        if retrain and data:
            said = "interrupted; nothing of this audit is kept, and what its fresh run released stays charged"
        elif classifiers or pipelines:
            said = "interrupted; finished shadow models are kept: the same command goes on with them"
        raise Interrupted(said) from None
    _show(found, found.path / REPORT)
    if found.not_printed:
        warn(f"audit.pdf: {found.not_printed}")
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
    attacks = {f"model: {name}": summary for name, summary in found.membership.items()}
    attacks |= {f"synthetic: {name}": summary for name, summary in found.synthetic.items()}
    if found.pipelines is not None:
        told = (("model", found.pipelines.membership), ("synthetic", found.pipelines.synthetic))
        attacks |= {f"{kind}: {name} *": summary for kind, own in told for name, summary in own.items()}
    for client, made in found.classifiers.items():
        attacks |= {f"{client}: {name}": summary for name, summary in made.attacks.items()}
    for name, summary in attacks.items():
        caught = next((c for c in summary.caught if c.fpr == summary.resolvable_fpr), None)
        rows.append(
            {
                "attack (describes, no verdict)": name,
                "area": f"{summary.area:.3f}",
                "95 %": f"{summary.area_interval.low:.3f} to {summary.area_interval.high:.3f}",
                "balanced": f"{summary.balanced_accuracy:.3f}",
                "caught": "-" if caught is None else f"{100 * caught.rate.value:.1f} %",
                "at false alarms": "-" if caught is None else f"{100 * caught.fpr:g} %",
                "at most": "-" if caught is None else f"{100 * caught.at_most:.1f} %",
            }
        )
    print_table(rows)
    if found.pipelines is not None:
        print(f"* held against {found.pipelines.pipelines} shadow federations")
    print()
    if found.inversion.attacks:
        print_table([_picture_row(attack) for attack in found.inversion.attacks])
        print()
    if found.rehearsal is not None:
        print_table([_canary_row(test) for test in found.rehearsal.tests])
        print()
    print("not tested:")
    for item in found.not_tested:
        print(f"- {item}")
    print(f"report: {report}")


def _picture_row(attack: Inverted) -> dict[str, str]:
    rates = {"recognised": attack.recognised, "nearer to training records": attack.nearer}
    told = {n: "-" if rate is None else f"{rate.hits} of {rate.trials}" for n, rate in rates.items()}
    return {"inversion (describes, no verdict)": attack.name, **told, "by chance": f"{attack.chance:.2g}"}


def _canary_row(test: CanaryTest) -> dict[str, str]:
    guesses = test.guesses
    return {
        "canaries (made by lot)": test.name,
        "right": f"{guesses.correct} of {guesses.made}",
        "shows epsilon": "-" if test.lower_bound is None else f"{test.lower_bound:.3g}",
        "alone, at 95 %": "-" if test.lower_bound_95 is None else f"{test.lower_bound_95:.3g}",
        "could show": "-" if test.provable is None else f"{test.provable:.3g}",
        "tests epsilon": "-" if test.epsilon is None or not test.counts else f"{test.epsilon:.3g}",
    }


def _word(passed: bool | None) -> str:
    return {True: "holds", False: "BROKEN", None: "-"}[passed]
