"""`mosaic-secure synth`: draw synthetic images from the generators of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import print_json

EXAMPLE = "Example: mosaic-secure synth runs/first --count 100"


def synth(
    run: options.RunPath,
    count: Annotated[int, typer.Option(metavar="N", help="How many images.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new or empty folder; default: a fresh RUN-synthetic here."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Another seed, other images.")] = 0,
    json: options.Json = False,
) -> None:
    """Write synthetic images as a PNG grid and an .npz; this costs no privacy.

    RUN is a run directory.
    """
    from mosaic_secure.runs import synthesis
    from mosaic_secure.runs.outputs import default_synthetic_folder

    images = synthesis.draw(run, count, seed)
    written = synthesis.write(images, to or default_synthetic_folder(run))
    print(f"{written['count']} images: {written['npz']}, {written['png']}")
    if json:
        print_json({"run": str(run), "seed": seed} | written)
