"""What each part of Mosaic is worth at one epsilon of a curve: one further run, taken apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison_request import Cell
from mosaic_secure.report.curve.point import Point
from mosaic_secure.runs import manifest

__all__ = ["Ablation", "ablate", "finished_ablation"]

FOLDER = "ablation"


@dataclass(frozen=True)
class Ablation:
    """Rows of `server/worth.py`, and the id of the run that they are of."""

    run: str
    rows: tuple[Mapping[str, Any], ...]


def finished_ablation(folder: Path, point: Point | None) -> Ablation | None:
    """The run that was taken apart at the epsilon of a point; None where no such run was finished."""
    path = None if point is None else _place(folder, point.epsilon)
    if path is None or not (path / manifest.MANIFEST).exists():
        return None
    try:
        content = manifest.read(path)
    except UserError:
        return None  # damaged: `verify` says so
    if not content.get("sealed"):
        return None
    return Ablation(str(content["run_id"]), tuple(content["result"].get("ablation", ())))


def ablate(folder: Path, cell: Cell, run: Callable[[RunConfig, Path, bool], object]) -> None:
    """Make the run that is taken apart, or go on with it.

    Args:
        run: makes it: configuration, run directory, whether to resume what is there.
    """
    path = _place(folder, cell.epsilon)
    run(cell.config, path, (path / manifest.MANIFEST).exists())


def _place(folder: Path, epsilon: float) -> Path:
    return folder / FOLDER / f"eps{epsilon!r}"
