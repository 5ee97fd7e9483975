"""Where results made from a sealed run go when nobody names a place: beside it, never inside it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

EXPORT_SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}


def default_synthetic_folder(run: str | Path) -> Path:
    """``<run name>-synthetic``, or the first of ``-2``, ``-3``, ... that does not exist or is empty."""
    folder, name = _outside(run)
    names = (f"{name}-synthetic{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(folder / name for name in names if _is_free(folder / name))


def default_export_file(run: str | Path, format: str) -> Path:
    """``<run name>.onnx`` or ``<run name>.pt2``; without a suffix where the format is unknown."""
    folder, name = _outside(run)
    return folder / f"{name}{EXPORT_SUFFIXES.get(format, '')}"


def _is_free(place: Path) -> bool:
    return not place.exists() or (place.is_dir() and not any(place.iterdir()))


def _outside(run: str | Path) -> tuple[Path, str]:
    """The current directory and the name of the run; the run's own parent if we stand inside the run."""
    sealed = Path(run).resolve()
    inside = Path.cwd().resolve().is_relative_to(sealed)
    return (sealed.parent if inside else Path()), sealed.name
