"""`mosaic-secure export`: hand the global model of a run to other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import print_json

EXAMPLE = "Example: mosaic-secure export runs/first --format onnx"


def export(
    run: options.RunPath,
    format: Annotated[str, typer.Option(metavar="onnx|torch-export", help="What to write.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write or replace; default: RUN.onnx or RUN.pt2 here."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the global model as one file, checked against PyTorch.

    RUN is a run directory.
    """
    from mosaic_secure.runs.export import export as export_model
    from mosaic_secure.runs.outputs import default_export_file

    report = export_model(run, format, to or default_export_file(run, format))
    if report.checked_with is None:
        checked = "not compared: onnxruntime is not installed"
    else:
        checked = f"logits in {report.checked_with} within {report.max_difference:.1e} of PyTorch"
    print(f"{report.path}: {report.bytes} bytes, {checked}")
    if json:
        print_json({"run": str(run)} | report.to_dict())
