"""`mosaic-secure predict`: classify images with the global model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import print_json

EXAMPLE = "Example: mosaic-secure predict runs/first digit.png more-digits.npz"


def predict(
    run: options.RunPath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS...")],
    json: options.Json = False,
) -> None:
    """Print the class of each image and how sure the model is.

    RUN is a run directory; PATHS are pictures (png, jpg), arrays (npy, npz), or folders of them.
    """
    from mosaic_secure.runs.images import find_files, read_images
    from mosaic_secure.runs.predictor import load

    predictor = load(run)
    batches = [(path, read_images(path, predictor.image_shape)) for path in find_files(paths)]
    rows = []
    for path, images in batches:
        for index, row in enumerate(predictor.predict_proba(images)):
            label = int(row.argmax())
            rows.append(
                {
                    "path": str(path),
                    "index": index,
                    "label": label,
                    "class": predictor.class_names[label],
                    "probability": round(float(row[label]), 6),
                }
            )
            place = f"{path}[{index}]" if len(images) > 1 else str(path)
            print(f"{place}\t{predictor.class_names[label]}\t{row[label]:.4f}")
    if json:
        print_json({"run": str(run), "predictions": rows})
