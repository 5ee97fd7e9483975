"""What a curve leaves in its folder: the page, its pictures, and the numbers for programs."""

from __future__ import annotations

import time
from pathlib import Path

from mosaic_secure.report.comparison_plot import draw_comparison
from mosaic_secure.report.curve.gather import Curve, data_of
from mosaic_secure.report.curve.page import curve_page
from privacy.storage import write_durably

__all__ = ["FILES", "PAGE", "contents_of", "write_files"]

PAGE = "curve.html"
FILES = (PAGE, "curve.json", "curve.csv", "curve.svg", "curve.png")
"""All that a curve leaves beside its runs."""


def write_files(folder: Path, curve: Curve, command: str) -> list[Path]:
    """Write curve.html, curve.json, curve.csv; curve.svg and curve.png where there is an accuracy to draw.

    Args:
        command: what makes the curve again.

    Returns:
        The paths, the page first.
    """
    contents = contents_of(curve, command, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    for name, data in contents.items():
        write_durably(folder / name, data)
    return [folder / name for name in contents]


def contents_of(curve: Curve, command: str, when: str) -> dict[str, bytes]:
    """File name -> bytes, the page first."""
    contents = {PAGE: curve_page(curve, command, when).encode()}
    rows = [point.row for point in curve.points]
    rows += [point.row for points in curve.baselines.values() for point in points]
    if any(row.accuracy is not None for row in rows):
        contents |= {f"curve.{kind}": draw_comparison(rows, curve.title, kind) for kind in ("svg", "png")}
    return contents | data_of(curve, command, when)
