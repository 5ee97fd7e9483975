"""Sweeps in a pack: the files of `mosaic-secure curve`, held against the runs that they speak of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison import RUNS, told_accuracy
from mosaic_secure.report.curve.ablation import FOLDER as ABLATIONS
from mosaic_secure.report.curve.files import FILES, PAGE
from mosaic_secure.report.curve.gather import FROZEN, RECORD
from mosaic_secure.runs import manifest
from mosaic_secure.runs.encoding import parse_json

__all__ = ["FILES", "PAGE", "RECORD", "PackedCurve", "Told", "curve_problems", "is_curve", "read_curve"]


@dataclass(frozen=True)
class Told:
    """What a packed run says of itself; `target` is the epsilon asked for, `epsilon` what was spent."""

    method: str
    target: float
    epsilon: float
    delta: float
    accuracy: float | None
    ablation: Sequence[Any]

    @classmethod
    def of(cls, content: Mapping[str, Any], metrics: bytes) -> Told:
        """From the run's manifest and its metrics.jsonl."""
        result = content["result"]
        rows = [parse_json(line, "metrics.jsonl") for line in metrics.splitlines()]
        accuracy, _ = told_accuracy(result, rows)
        return cls(
            str(content["config"]["method"]),
            float(content["config"]["privacy"]["epsilon"]),
            float(result["epsilon"]),
            float(result["delta"]),
            accuracy,
            result.get("ablation", ()),
        )


@dataclass(frozen=True)
class PackedCurve:
    """A sweep: the name of its folder, its files, and where each of its sealed runs lies."""

    name: str
    files: Mapping[str, bytes]
    record: Mapping[str, Any]
    runs: tuple[Path, ...]


def is_curve(path: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (path / FROZEN).exists()


def read_curve(path: Path) -> PackedCurve:
    """Read a sweep for a pack; its runs are read like any others.

    Raises:
        UserError: its page was not written yet, or runs have ended since.
    """
    again = f"ask for it again: mosaic-secure curve ... --out {path}"
    try:
        files = {name: (path / name).read_bytes() for name in FILES if (path / name).exists()}
        record = parse_json(files[RECORD], str(path / RECORD))
        named = set(_named(record))
    except KeyError:
        raise UserError(f"curve {path}: has no {RECORD}; {again}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"curve {path}: {RECORD} is not what mosaic-secure curve writes; {again}") from error
    except OSError as error:
        raise UserError(f"curve {path}: cannot be read: {error.strerror or error}") from error
    found: dict[str, Path] = {}
    for place in sorted([*path.glob(f"{RUNS}/*"), *path.glob(f"{ABLATIONS}/*")]):
        if (place / manifest.MANIFEST).exists():
            content = manifest.read(place)
            if content["sealed"]:
                found[str(content["run_id"])] = place
    made = {run: place for run, place in found.items() if place.parent.name == RUNS or run in named}
    for run in sorted(made.keys() ^ named):
        place = made.get(run)
        odd = f"{RECORD} names run {run}, which is not there"
        what = odd if place is None else f"{place} has ended since"
        raise UserError(f"curve {path}: {what}; {again}")
    return PackedCurve(path.resolve().name, files, record, tuple(made.values()))


def curve_problems(record: Mapping[str, Any], runs: Mapping[str, Told]) -> list[str]:
    """One sentence for each number of a curve.json that its runs do not bear out; none if all do.

    Args:
        runs: id -> what the run says, of all runs that a pack holds.
    """
    try:
        return list(_problems(record, runs))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["is not what mosaic-secure curve writes"]


def _problems(record: Mapping[str, Any], runs: Mapping[str, Told]) -> Iterator[str]:
    for run in _named(record):
        if run not in runs:
            yield f"names run {run}, which is not in the pack"
    for point, method in _points(record):
        own = {seed: runs[run] for seed, run in point["runs"].items() if run in runs}
        where = f"{method} at epsilon {point['epsilon']}"
        for seed, told in sorted(own.items()):
            if (told.method, told.target) != (method, float(point["epsilon"])):
                yield f"{where}, seed {seed}: its run is of another method or budget"
            if not _same(point["accuracy_by_seed"].get(seed), told.accuracy):
                yield f"{where}, seed {seed}: tells another accuracy than its run"
        known = [told.accuracy for told in own.values() if told.accuracy is not None]
        if known and not _same(point["accuracy_mean"], math.fsum(known) / len(known)):
            yield f"{where}: its mean accuracy is not that of its runs"
        if own and not _same(float(point["epsilon_spent"]), max(told.epsilon for told in own.values())):
            yield f"{where}: tells another epsilon spent than its runs"
        if own and not _same(point["delta"], max(told.delta for told in own.values())):
            yield f"{where}: tells another delta than its runs"
    apart = record["ablation_run"]
    if apart in runs and list(runs[apart].ablation) != record["ablation"]:
        yield "tells another worth of the parts than the run that was taken apart"


def _points(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for point in record["points"]:
        yield point, "mosaic"
    for name, points in record["baselines"].items():
        for point in points:
            yield point, name


def _named(record: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the runs that a curve.json speaks of."""
    for point, _ in _points(record):
        yield from map(str, point["runs"].values())
    if record["ablation_run"] is not None:
        yield str(record["ablation_run"])


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
