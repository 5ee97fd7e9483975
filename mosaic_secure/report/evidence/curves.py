"""Sweeps in a pack: the files of `mosaic-secure curve`, held against the runs that they speak of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.statistics import tpr_ceiling
from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison import RUNS, Outcome, read_run, told_accuracy
from mosaic_secure.report.comparison_request import REFERENCE, Cell
from mosaic_secure.report.curve.ablation import FOLDER as ABLATIONS
from mosaic_secure.report.curve.audits import FAIL
from mosaic_secure.report.curve.choice import Candidate, choose
from mosaic_secure.report.curve.cost import FALSE_ALARMS, Looking
from mosaic_secure.report.curve.files import FILES, PAGE, contents_of
from mosaic_secure.report.curve.gather import FROZEN, RECORD, gather
from mosaic_secure.report.curve.point import mean_of
from mosaic_secure.report.curve.request import Wanted
from mosaic_secure.runs import manifest
from mosaic_secure.runs.encoding import parse_json

__all__ = ["FILES", "PAGE", "RECORD", "PackedCurve", "Told", "curve_problems", "is_curve", "read_curve"]


@dataclass(frozen=True)
class Told:
    """What a packed run says of itself.

    Attributes:
        target: the epsilon asked for. epsilon, delta: what was spent.
        refuted: whether an audit of the pack refutes what the run promises.
    """

    method: str
    target: float
    seed: int
    epsilon: float
    delta: float
    accuracy: float | None
    ablation: Sequence[Any]
    refuted: bool

    @classmethod
    def of(cls, content: Mapping[str, Any], metrics: bytes, audits: Sequence[Mapping[str, Any]]) -> Told:
        """From the run's manifest, its metrics.jsonl and what audit.json of each of its audits holds."""
        result, target = content["result"], float(content["config"]["privacy"]["epsilon"])
        rows = [parse_json(line, "metrics.jsonl") for line in metrics.splitlines()]
        own = [audit for audit in audits if audit["epsilon_claimed"] == audit["epsilon_of_the_run"]]
        return cls(
            str(content["config"]["method"]),
            target,
            int(content["config"]["seed"]),
            float(result["epsilon"]),
            float(result["delta"]),
            told_accuracy(result, rows)[0],
            result.get("ablation", ()),
            math.isfinite(target) and any(audit["verdict"] == FAIL for audit in own),
        )


@dataclass(frozen=True)
class PackedCurve:
    """A sweep: the name of its folder, its files as its runs have them now, and where each run lies."""

    name: str
    files: Mapping[str, bytes]
    record: Mapping[str, Any]
    runs: tuple[Path, ...]


def is_curve(path: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (path / FROZEN).exists()


def read_curve(path: Path) -> PackedCurve:
    """Read a sweep for a pack: what was asked from its files, and all else anew from its sealed runs.

    So what somebody did to a page, or what came after it, such as an audit, cannot part it from its runs.

    Raises:
        UserError: its page was not written yet, or a run is damaged.
    """
    again = f"ask for it again: mosaic-secure curve ... --out {path}"
    try:
        asked = parse_json((path / RECORD).read_bytes(), str(path / RECORD))
        frozen = parse_json((path / FROZEN).read_bytes(), str(path / FROZEN))["runs"]
        command, when = str(asked["command"]), str(asked["when"])
        names = {field.name for field in dataclasses.fields(Looking)}
        looking = Looking(**{name: value for name, value in asked["looking"].items() if name in names})
        wanted = Wanted(**asked["wanted"])
    except FileNotFoundError:
        raise UserError(f"curve {path}: has no {RECORD}; {again}") from None
    except OSError as error:
        raise UserError(f"curve {path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"curve {path}: {RECORD} is not what mosaic-secure curve writes; {again}") from error
    looking = dataclasses.replace(looking, epsilon=float(looking.epsilon), delta=float(looking.delta))
    sealed, open_runs = {}, []
    for slug, config_hash in frozen.items():
        content = _sealed(path / RUNS / slug)
        if content is None:
            open_runs.append({"run": slug, "reason": "has not ended"})
            continue
        if content["config_hash"] != config_hash:
            raise UserError(f"curve {path}: run {slug} is of another configuration than {FROZEN} says")
        sealed[slug] = content
    if not sealed:
        raise UserError(f"curve {path}: none of its runs has ended; {again}")
    cells = [_cell(slug, RunConfig.from_dict(content["config"])) for slug, content in sealed.items()]
    outcomes = [Outcome(cell, read_run(path / RUNS / cell.slug)) for cell in cells]
    found = gather(path, cells, outcomes, wanted, looking, open_runs)
    found = dataclasses.replace(found, planned=len(frozen))
    files = contents_of(found, command, when)
    places = [path / RUNS / slug for slug in sealed]
    if found.taken_apart is not None:
        places += [p for p in sorted((path / ABLATIONS).iterdir()) if _id(p) == found.taken_apart.run]
    return PackedCurve(path.resolve().name, files, parse_json(files[RECORD], RECORD), tuple(places))


def _sealed(place: Path) -> dict[str, Any] | None:
    if not (place / manifest.MANIFEST).exists():
        return None
    content = manifest.read(place)
    return content if content["sealed"] else None


def _id(place: Path) -> str | None:
    content = _sealed(place)
    return None if content is None else str(content["run_id"])


def _cell(slug: str, config: RunConfig) -> Cell:
    """The cell that a sealed run was made for."""
    return Cell(
        slug,
        config.method,
        config.preset if config.method == REFERENCE else None,
        config.privacy.trust,
        config.partition.alpha if config.partition.kind == "dirichlet" else None,
        config.privacy.epsilon,
        config.seed,
        config,
    )


def curve_problems(record: Mapping[str, Any], runs: Mapping[str, Told]) -> list[str]:
    """One sentence for each number of a curve.json that its runs do not bear out; none if all do.

    Held against the runs: which they are, accuracies with mean and interval, what was spent, the ceiling of
    attacks, refutations, the choice, and the ablation. Not held against anything: accuracies by class and
    client, calibration, and shares that attacks caught.

    Args:
        runs: id -> what the run says, of all runs that a pack holds.
    """
    try:
        return list(_problems(record, runs))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["is not what mosaic-secure curve writes"]


def _problems(record: Mapping[str, Any], runs: Mapping[str, Told]) -> Iterator[str]:
    seen: set[str] = set()
    for run in _named(record):
        if run not in runs:
            yield f"names run {run}, which is not in the pack"
        if run in seen:
            yield f"counts run {run} twice"
        seen.add(run)
    insecure = bool(record["looking"]["insecure"])
    for point, method in _points(record):
        where = f"{method} at epsilon {point['epsilon']}"
        own = {int(seed): runs[run] for seed, run in point["runs"].items() if run in runs}
        for seed, told in sorted(own.items()):
            if (told.method, told.target, told.seed) != (method, float(point["epsilon"]), seed):
                yield f"{where}, seed {seed}: its run is of another method, budget or seed"
            if not _same(point["accuracy_by_seed"].get(str(seed)), told.accuracy):
                yield f"{where}, seed {seed}: tells another accuracy than its run"
        if point["accuracy_by_seed"].keys() - point["runs"].keys() or point["seeds"] != len(point["runs"]):
            yield f"{where}: counts runs that it does not name"
        if not own:
            continue
        known = [told.accuracy for _, told in sorted(own.items()) if told.accuracy is not None]
        mean = mean_of(known) if known else None
        if not _same(point["accuracy_mean"], None if mean is None else mean.value):
            yield f"{where}: its mean accuracy is not that of its runs"
        interval = None if mean is None or mean.interval is None else list(mean.interval)
        if not _alike(point["accuracy_ci95"], interval):
            yield f"{where}: its interval is not that of its runs"
        epsilon, delta = (max(getattr(told, name) for told in own.values()) for name in ("epsilon", "delta"))
        if not _same(float(point["epsilon_spent"]), epsilon):
            yield f"{where}: tells another epsilon spent than its runs"
        if not _same(point["delta"], delta):
            yield f"{where}: tells another delta than its runs"
        ceiling = 1.0 if insecure else tpr_ceiling(epsilon, delta, FALSE_ALARMS)
        if not _same(point["tpr_ceiling_at_fpr_0.01"], ceiling):
            yield f"{where}: tells another ceiling of attacks than follows from what was spent"
    refuted = {run for run in _named(record) if run in runs and runs[run].refuted}
    if refuted and not record["refuted"]:
        yield f"does not tell that an audit refutes run {min(refuted)}"
    chosen = None if record["choice"] is None else record["choice"]["epsilon"]
    if chosen != _chosen(record, refuted):
        yield f"chooses epsilon {chosen}, which is not what its own rule chooses"
    apart = record["ablation_run"]
    if apart in runs and list(runs[apart].ablation) != record["ablation"]:
        yield "tells another worth of the parts than the run that was taken apart"


def _chosen(record: Mapping[str, Any], refuted: Set[str]) -> float | None:
    """The epsilon that the rule chooses from the points as they are told; a refuted one is not chosen."""
    wanted = Wanted(**record["wanted"])
    if record["looking"]["insecure"] or not wanted.anything:
        return None
    left = [point for point in record["points"] if not refuted & set(point["runs"].values())]
    candidates = [
        Candidate(
            float(point["epsilon"]),
            point["accuracy_mean"],
            (point["accuracy_ci95"] or [None])[0],
            point["tpr_held_against_max_tpr"],
        )
        for point in left
    ]
    return choose(candidates, wanted).epsilon


def _alike(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))


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
