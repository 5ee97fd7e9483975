"""`mosaic-secure report`: the evidence pack of one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.errors import Interrupted, terminate_as_interrupt
from cli.output import print_facts, print_json

EXAMPLE = "Example: mosaic-secure report runs/first runs/second --out evidence/both"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PACK",
            help="The folder; the zip is written beside it. Default: a fresh one under evidence/.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Key that signs, made on first use.",
            show_default="your own, in ~/.config/mosaic-secure",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Put what sealed runs may show to others into one signed folder and one zip.

    RUN is a run directory, or the folder of a curve, whose runs all go in. Manifests, guarantees, signed
    ledgers, audits that may be shared, and cards of the model and the synthetic data go in; of several runs
    also a comparison. Nothing client-confidential does.
    """
    from mosaic_secure.report.evidence.build import build_pack

    try:
        with terminate_as_interrupt():
            built = build_pack(runs, out, key)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing of this pack is kept: start it again") from None
    record = built.to_dict()
    signer = record.pop("signer")
    names = {name: ", ".join(record.pop(name)) for name in ("runs", "curves")}
    shown = {name: joined for name, joined in names.items() if joined}
    print_facts({**record, **shown, "signed by": signer["public_key"]})
    print(f"check it with: mosaic-secure verify {built.zip} --signer {signer['public_key']}")
    if json:
        print_json(built.to_dict())
