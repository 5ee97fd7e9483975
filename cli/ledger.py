"""`mosaic-secure ledger`: read and check the ledgers of clients, without their keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.errors import VERDICT_FAILED
from cli.output import print_json, print_table

if TYPE_CHECKING:
    from privacy.ledger_check import LedgerReport

SHOW_EXAMPLE = "Example: mosaic-secure ledger show ledgers/digits-5/client-0"
VERIFY_EXAMPLE = "Example: mosaic-secure ledger verify ledgers"

app = typer.Typer(
    no_args_is_help=True,
    help="Read and check what clients have spent.",
    epilog=SHOW_EXAMPLE,
)

Place = Annotated[Path, typer.Argument(metavar="PATH")]


@app.command(epilog=SHOW_EXAMPLE)
def show(path: Place, json: options.Json = False) -> None:
    """Print what each run has spent, and the sum over a client's life.

    PATH is a ledger.jsonl, or a directory with ledgers anywhere under it.
    """
    from privacy.errors import LedgerDamaged
    from privacy.ledger_check import verify as check

    records = []
    for file in find_ledgers(path):
        report = check(file)
        if report.problems:
            raise LedgerDamaged(f"ledger {file}: {report.problems[0]}")
        record = _record(file, report)
        records.append(record)
        print(f"{report.population} / {report.party}: {report.entries} entries in {file}")
        print_table(record["runs"])
        print(f"lifetime: epsilon {report.lifetime_epsilon:.4g}, delta {report.lifetime_delta:.4g}")
        _print_notes(report)
    if json:
        print_json({"ledgers": records})


@app.command(epilog=VERIFY_EXAMPLE)
def verify(path: Place, json: options.Json = False) -> None:
    """Check chain, signatures and anchor of each ledger; exit status 3 if one fails.

    PATH is a ledger.jsonl, or a directory with ledgers anywhere under it.
    """
    from privacy.ledger_check import verify as check

    records = []
    for file in find_ledgers(path):
        report = check(file)
        records.append(_record(file, report))
        verdict = "fail: " + "; ".join(report.problems) if report.problems else "pass"
        print(f"{file}: {verdict}; {report.entries} entries")
        _print_notes(report)
    failed = any(record["problems"] for record in records)
    if json:
        print_json({"verdict": "fail" if failed else "pass", "ledgers": records})
    if failed:
        raise typer.Exit(VERDICT_FAILED)


def find_ledgers(path: Path) -> list[Path]:
    """The ledger files at or under a path, sorted.

    Raises:
        UserError: there is none.
    """
    from mosaic_secure.errors import UserError
    from privacy.ledger_check import LEDGER_FILE

    if path.is_file():
        return [path]
    found = sorted(path.rglob(LEDGER_FILE))
    if not found:
        raise UserError(f"{path}: expected a {LEDGER_FILE}, or a directory with one under it")
    return found


def _record(file: Path, report: LedgerReport) -> dict[str, Any]:
    runs = [
        {
            "run": run.run_id,
            "enrolled": run.enrolled,
            "epsilon": run.epsilon,
            "delta": run.delta,
            "charged_epsilon": run.charged_epsilon,
            "releases": ", ".join(f"{name} {made}" for name, made in run.releases.items()),
            "sealed": run.sealed,
            "insecure_noise": run.insecure_noise,
        }
        for run in report.runs
    ]
    return {
        "path": str(file),
        "population": report.population,
        "party": report.party,
        "entries": report.entries,
        "lifetime_epsilon": report.lifetime_epsilon,
        "lifetime_delta": report.lifetime_delta,
        "runs": runs,
        "problems": list(report.problems),
        "notes": list(report.notes),
    }


def _print_notes(report: LedgerReport) -> None:
    for note in report.notes:
        print(f"note: {note}")
