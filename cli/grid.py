"""What `compare` and `curve` share: working through a grid of runs, listing it, and how it goes on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import options
from cli.errors import FAILED
from cli.output import print_json, print_table
from cli.tracked import Log

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.report.comparison import Outcome
    from mosaic_secure.report.comparison_request import Cell


def as_command(name: str, given: Mapping[str, object], settings: Sequence[str] | None) -> str:
    """The command line of options that were given; a value of True stands for an option alone."""
    words = ["mosaic-secure", name]
    for option, value in given.items():
        if value not in (None, False):
            words += [option] if value is True else [option, str(value)]
    for setting in settings or ():
        words += ["--set", setting]
    return shlex.join(words)


_PLACE_FIELDS = ("path", "root")
_PLACES = ("--data-root", "--ledger-dir", "--log", "--log-dir", "--out")


def shown_command(name: str, given: Mapping[str, object], settings: Sequence[str] | None) -> str:
    """The same for a page that others read: without where anything lies on this machine."""
    kept = {option: value for option, value in given.items() if option not in _PLACES}
    config = kept.get("--config")
    if config is not None:
        kept["--config"] = Path(str(config)).name
    public = [text for text in settings or () if not text.partition("=")[0].strip().endswith(_PLACE_FIELDS)]
    return as_command(name, kept, public)


def how_to_continue(command: str, tried: int, total: int) -> str:
    """The line that tells how an interrupted grid goes on."""
    return f"interrupted after {tried} of {total} runs; continue with: {command}"


def warn_once(cells: Sequence[Cell]) -> None:
    """Warn of what does not protect: once for each kind, not once for each run."""
    for unprotected in (True, False):
        for cell in cells:
            if cell.config.no_noise == unprotected:
                options.warned(cell.config)
                break


def work(
    folder: Path, cells: Sequence[Cell], ledger_dir: Path | None, outcomes: list[Outcome], log: Log
) -> None:
    """Make and read all runs, each told with the time that is left; `outcomes` grows as they end."""
    from mosaic_secure.engine.keeping import WorkerKeeper
    from mosaic_secure.report.comparison import DONE, carry_out, is_done
    from mosaic_secure.report.remaining import in_words, seconds_left

    def run(config: RunConfig, path: Path, resume: bool) -> None:
        from cli.progress import shown
        from mosaic_secure.engine.local import train

        with shown() as progress, log.beside(path, f"{folder.resolve().name}/{path.name}") as read:
            train(
                config,
                out=path,
                resume=resume,
                ledger_dir=ledger_dir,
                progress=progress,
                keeper=keeper,
                read=read,
            )

    def begin(number: int, cell: Cell, state: str) -> None:
        verb = {"done": "is done", "broken off": "resumes"}.get(state, "begins")
        left = None
        if state != DONE:
            left = seconds_left(outcomes, [one for one in cells[number - 1 :] if one.slug not in before])
        more = f"; about {in_words(left)} left" if left else ""
        say(f"[{number}/{len(cells)}] {cell.slug} {verb}{more}")

    before = {cell.slug for cell in cells if is_done(folder, cell)}
    with WorkerKeeper() as keeper:
        for outcome in carry_out(folder, cells, run, begin):
            outcomes.append(outcome)
            if outcome.measured is None:
                say(f"[{len(outcomes)}/{len(cells)}] {outcome.cell.slug} failed: {outcome.reason}")


def say(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr, flush=True)


def without_empty_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns in which nobody has a value."""
    kept = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def show_cells(
    cells: Sequence[Cell], out: Path | None, json: bool, frozen: str, more: Mapping[str, Any] | None = None
) -> None:
    """List the runs with what each is planned to spend; nothing is read but what `out` already holds."""
    from mosaic_secure.errors import UserError
    from mosaic_secure.plan import build_plan
    from mosaic_secure.report.comparison import MISSING, check_request, state_of
    from privacy.errors import PrivacyError

    begun = out is not None and check_request(out, cells, frozen)
    planned: dict[tuple[Any, ...], tuple[float | None, str | None]] = {}
    rows = []
    for cell in cells:
        same = cell.same_plan
        if same not in planned:
            try:
                planned[same] = (build_plan(cell.config, cell.config.data.root).budget.epsilon, None)
            except (UserError, PrivacyError) as error:
                planned[same] = (None, str(error))
        epsilon, problem = planned[same]
        rows.append(
            {
                "run": cell.slug,
                "epsilon_target": cell.epsilon,
                "epsilon_planned": epsilon,
                "delta": cell.config.privacy.delta,
                "state": state_of(out, cell) if begun and out is not None else MISSING,
                "problem": problem,
            }
        )
    print_table(without_empty_columns(rows))
    if json:
        print_json({"runs": rows, **(more or {})})
    if any(row["problem"] for row in rows):
        raise typer.Exit(FAILED)
