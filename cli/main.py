"""The entry point: puts the commands together and turns every outcome into an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cli import (
    audit,
    budget,
    compare,
    configs,
    curve,
    doctor,
    export,
    keys,
    ledger,
    party,
    predict,
    report,
    synth,
    train,
    verify,
)
from cli.errors import guarded

PROGRAM = "mosaic-secure"

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    epilog="Example: mosaic-secure train --epsilon 4",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module, command in (
    (train, train.train),
    (audit, audit.audit),
    (curve, curve.curve),
    (compare, compare.compare),
    (report, report.report),
    (predict, predict.predict),
    (export, export.export),
    (synth, synth.synth),
    (verify, verify.verify),
    (budget, budget.budget),
    (configs, configs.configs),
    (doctor, doctor.doctor),
):
    app.command(epilog=module.EXAMPLE)(command)
for command, example in (
    (party.serve, party.SERVE_EXAMPLE),
    (party.join, party.JOIN_EXAMPLE),
    (party.authority, party.AUTHORITY_EXAMPLE),
):
    app.command(epilog=example)(command)
app.add_typer(ledger.app, name="ledger")
app.add_typer(keys.app, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        from mosaic_secure import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train one good classifier from data that nobody may show to the others, with a privacy guarantee."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Returns:
        0 done, 1 failed, 2 bad input, 3 a verdict that fails, 130 interrupted.
    """
    command = typer.main.get_command(app)
    given = None if arguments is None else list(arguments)
    return guarded(lambda: command.main(given, prog_name=PROGRAM, standalone_mode=False))
