"""A comparison on disk: its frozen request, and the loop that runs what is missing.

``DIR/comparison.json`` names every run with the hash of its configuration and never changes. Each run is a
run directory, ``DIR/runs/SLUG``; what is sealed there is read, what was broken off is resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.config import RunConfig, config_hash
from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison_request import Cell
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document, parse_json
from privacy.errors import PrivacyError
from privacy.storage import make_private_directory, write_durably

__all__ = [
    "Measured",
    "Outcome",
    "carry_out",
    "check_request",
    "in_one_line",
    "is_done",
    "opened",
    "read_run",
    "recorded",
    "state_of",
    "told_accuracy",
]

FROZEN = "comparison.json"
RUNS = "runs"
DONE, BROKEN_OFF, MISSING = "done", "broken off", "missing"

Run = Callable[[RunConfig, Path, bool], object]
"""Makes one run: configuration, run directory, whether to resume what is there."""


@dataclass(frozen=True)
class Measured:
    """What a finished run says of itself.

    Attributes:
        accuracy: in [0, 1]; None where there is no public test part.
        balanced_accuracy, auc: of the same; None also where a run did not record them.
        score: what `accuracy` is of: ``"global"``, or ``"local mean"`` for a method without a global model.
        epsilon: spent, as the accountant composes it from what was done; the largest over clients.
        teacher_accuracy: of the mixture that was distilled; None where there is none.
        seconds: of the last call that worked on the run.
    """

    accuracy: float | None
    score: str
    epsilon: float
    delta: float
    teacher_accuracy: float | None
    seconds: float
    balanced_accuracy: float | None = None
    auc: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A cell and what came of it: measured, or the reason why not, in one line.

    ``recorded`` is the reason as it may stand in a file: for private data, without its words.
    """

    cell: Cell
    measured: Measured | None = None
    reason: str = ""
    recorded: str = ""


@contextlib.contextmanager
def opened(folder: Path, cells: Sequence[Cell], frozen: str = FROZEN) -> Iterator[Path]:
    """Work in a comparison: create or continue it, locked against other processes.

    Args:
        frozen: the file that holds the request; its stem is what messages call the whole.

    Raises:
        UserError: the directory holds something else, or a comparison of other runs; another process works
            in it; it cannot be written.
    """
    try:
        make_private_directory(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"cannot use {folder} for a {_word(frozen)}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is working in {folder}; wait for it to end") from error
        if not check_request(folder, cells, frozen):
            write_durably(folder / frozen, json_document({"runs": _frozen(cells)}))
        yield folder
    finally:
        os.close(lock)


def check_request(folder: Path, cells: Sequence[Cell], frozen: str = FROZEN) -> bool:
    """Whether a directory already holds this very comparison.

    Raises:
        UserError: it holds another one, or something else.
    """
    file = folder / frozen
    if not file.exists():
        others = [] if not folder.exists() else sorted(entry.name for entry in folder.iterdir())
        others = [name for name in others if not (name.startswith(f".{frozen}.") and name.endswith(".part"))]
        if others:
            raise UserError(
                f"{folder} is not empty (it holds {others[0]}) and is no {_word(frozen)}; choose another "
                "--out"
            )
        return False
    before, now = parse_json(file.read_bytes(), str(file)).get("runs"), _frozen(cells)
    if before == now:
        return True
    before = before if isinstance(before, dict) else {}
    odd = sorted(set(before) ^ set(now)) or [name for name in now if before.get(name) != now[name]]
    state = "has" if odd[0] not in now else "lacks" if odd[0] not in before else "has other settings for"
    raise UserError(
        f"{folder} holds another {_word(frozen)}: it {state} {odd[0]}; repeat its options, or choose another "
        "--out"
    )


def carry_out(
    folder: Path, cells: Sequence[Cell], run: Run, begin: Callable[[int, Cell, str], None]
) -> Iterator[Outcome]:
    """Run what is missing and read the rest, one cell after the other; a cell that fails stops no other.

    Args:
        folder: of the comparison, see :func:`opened`.
        run: makes one run.
        begin: is told of each cell before it: number from 1, cell, and its state.
    """
    for number, cell in enumerate(cells, 1):
        path = folder / RUNS / cell.slug
        try:
            state = state_of(folder, cell)
            begin(number, cell, state)
            if state != DONE:
                run(cell.config, path, state == BROKEN_OFF)
            outcome = Outcome(cell, read_run(path))
        except Exception as error:
            outcome = _failed(cell, error)
        yield outcome


def state_of(folder: Path, cell: Cell) -> str:
    """Whether the run of a cell is done, broken off or missing.

    Raises:
        UserError: there is a run of another configuration, or its manifest is damaged.
    """
    path = folder / RUNS / cell.slug
    if not (path / manifest.MANIFEST).exists():
        return MISSING
    content = manifest.read(path)
    manifest.check_same_config(path, content, cell.config.to_dict(), config_hash(cell.config))
    return DONE if content.get("sealed") else BROKEN_OFF


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether a cell needs no run any more; a run that cannot be read is not done."""
    try:
        return state_of(folder, cell) == DONE
    except UserError:
        return False


def read_run(path: Path) -> Measured:
    """The measures of a sealed run.

    Raises:
        UserError: the run is not finished or is damaged.
    """
    run = RunDirectory.open(path)
    result = run.manifest.get("result")
    if not run.sealed or not isinstance(result, dict):
        raise UserError(f"run {path} is not finished")
    lines = run.read_bytes("metrics.jsonl").splitlines()
    rows = [parse_json(line, f"{path}/metrics.jsonl") for line in lines]
    accuracy, score = told_accuracy(result, rows)
    teacher = result.get("teacher_accuracy")
    return Measured(
        accuracy=accuracy,
        score=score,
        epsilon=float(result["epsilon"]),
        delta=float(result["delta"]),
        teacher_accuracy=None if teacher is None else float(teacher),
        seconds=float(result["seconds"]),
        balanced_accuracy=result.get("balanced_accuracy"),
        auc=result.get("auc"),
    )


def told_accuracy(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """The accuracy that a run tells, None where it tells none, and what that is of.

    Args:
        result: of its manifest. rows: of its metrics.jsonl.
    """
    scores = {row["of"]: row["value"] for row in rows if row.get("metric") == "accuracy"}
    score = result.get("score") or ("local mean" if "local mean" in scores else "global")
    accuracy = scores.get(score, result.get("accuracy"))
    return None if accuracy is None else float(accuracy), score


def _word(frozen: str) -> str:
    return frozen.partition(".")[0]


def _frozen(cells: Sequence[Cell]) -> dict[str, Any]:
    return {cell.slug: config_hash(cell.config) for cell in cells}


def _failed(cell: Cell, error: Exception) -> Outcome:
    return Outcome(cell, reason=in_one_line(error), recorded=recorded(cell, error))


def in_one_line(error: Exception) -> str:
    """What went wrong; an error that was not foreseen with its type."""
    text = " ".join(str(error).split())
    foreseen = isinstance(error, UserError | PrivacyError)
    return text if foreseen and text else f"unexpected {type(error).__name__}: {text}".rstrip(": ")


def recorded(cell: Cell, error: Exception) -> str:
    """The same as it may stand in a file: for private data, without its words."""
    if cell.config.is_public:
        return in_one_line(error)
    return f"{type(error).__name__} (told on the terminal alone)"
