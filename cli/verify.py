"""`mosaic-secure verify`: check that a sealed run, or an evidence pack, is what it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.errors import VERDICT_FAILED
from cli.output import print_json

if TYPE_CHECKING:
    from mosaic_secure.report.evidence.check import PackReport
    from mosaic_secure.runs.verify import VerifyReport

EXAMPLE = "Example: mosaic-secure verify runs/first"


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN|PACK", show_default=False)],
    signer: Annotated[
        str | None,
        typer.Option(metavar="PUBLICKEY", help="Whose signature a pack must bear.", show_default="anybody's"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check every file of a run and every message against the trust map, or an evidence pack offline.

    RUN is a run directory, PACK the folder or zip of `report`. Exit status 3 if something is wrong.
    """
    from mosaic_secure.errors import UserError
    from mosaic_secure.report.evidence.archive import is_pack
    from mosaic_secure.runs.verify import verify as verify_run

    checked: PackReport | VerifyReport
    if is_pack(path):
        from mosaic_secure.report.evidence.check import check_pack
        from mosaic_secure.report.evidence.format import parse_public_key

        checked = check_pack(path, None if signer is None else parse_public_key(signer, "--signer"))
        counted = (
            f"{checked.files} files, {checked.runs} runs, {checked.curves} curves, {checked.audits} audits, "
            f"{checked.ledgers} ledgers"
        )
    elif signer is not None:
        raise UserError(f"--signer: {path} is no evidence pack; a run bears no such signature")
    else:
        checked = verify_run(path)
        counted = f"{checked.files} files, {checked.messages} messages, {checked.audits} audits"
    for problem in checked.problems:
        print(problem)
    verdict = "pass" if checked.passed else f"fail, {len(checked.problems)} problem(s)"
    print(f"{path}: {verdict}; {counted}")
    if is_pack(path):
        _say_who(checked)
    if json:
        print_json(checked.to_dict())
    if not checked.passed:
        raise typer.Exit(VERDICT_FAILED)


def _say_who(checked: PackReport) -> None:
    if checked.signer is None:
        print("no signature holds")
        return
    print(f"signed by {checked.signer}")
    if not checked.pinned:
        print(
            "that shows integrity, not who signed: compare the key with one that you know, or name that one "
            "by --signer"
        )
