"""`mosaic-secure compare`: methods against each other at the same data, budget and accountant."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.errors import FAILED, Interrupted, terminate_as_interrupt
from cli.output import print_json, print_table, warn

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.report.comparison import Outcome
    from mosaic_secure.report.comparison_request import Cell

EXAMPLE = "Example: mosaic-secure compare --config fashion_mnist --epsilons 1,4 --seeds 0,1,2"


def _list(metavar: str, text: str, default: str) -> Any:
    return typer.Option(metavar=metavar, help=text, show_default=default)


def compare(
    config: options.Config = None,
    epsilons: Annotated[
        str | None, _list("LIST", "Budgets, such as 1,4 or 1,inf.", "the configuration's")
    ] = None,
    methods: Annotated[
        str | None,
        _list("LIST", "Methods; mosaic also with a preset, as mosaic:NAME.", "all; central for public data"),
    ] = None,
    seeds: Annotated[str | None, _list("LIST", "A run each; from two on there are intervals.", "0")] = None,
    trust: Annotated[
        str | None, _list("LIST", "local, distributed or both, for mosaic.", "the configuration's")
    ] = None,
    alphas: Annotated[
        str | None, _list("LIST", "Dirichlet parameters of the partition.", "the configuration's")
    ] = None,
    data_root: options.DataRoot = None,
    ledger_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where clients keep keys and ledgers.", rich_help_panel=options.RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where all goes; the same one again continues. Default: a fresh one.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the runs and what each costs.", rich_help_panel=options.RUN),
    ] = False,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train with several methods and budgets, and write a table and a picture of the accuracies."""
    from mosaic_secure.config import load_config
    from mosaic_secure.report.comparison_request import Request
    from mosaic_secure.runs.directory import default_run_path

    fields = options.overrides(settings, data__root=data_root)
    request = Request.parse(methods, epsilons, seeds, trust, alphas)
    cells = request.cells(lambda taken: load_config(config or "digits", taken), fields)
    _warn(cells)
    if dry_run:
        _show_cells(cells, out, json)
        return
    folder = out or default_run_path()
    given = {
        "--config": config,
        "--epsilons": epsilons,
        "--methods": methods,
        "--seeds": seeds,
        "--trust": trust,
        "--alphas": alphas,
        "--data-root": data_root,
        "--ledger-dir": ledger_dir,
        "--out": folder,
    }
    outcomes: list[Outcome] = []
    try:
        with terminate_as_interrupt():
            _work(folder, cells, ledger_dir, outcomes)
    except KeyboardInterrupt:
        if outcomes:
            _write(folder, cells, outcomes)
        raise Interrupted(how_to_continue(given, settings, len(outcomes), len(cells))) from None
    _show(folder, cells, outcomes, json)
    if any(outcome.measured is None for outcome in outcomes):
        raise typer.Exit(FAILED)


def how_to_continue(
    given: Mapping[str, object], settings: Sequence[str] | None, tried: int, total: int
) -> str:
    """The line that tells how an interrupted comparison goes on."""
    command = ["mosaic-secure", "compare"]
    for option, value in given.items():
        command += [] if value is None else [option, str(value)]
    for setting in settings or ():
        command += ["--set", setting]
    return f"interrupted after {tried} of {total} runs; continue with: {shlex.join(command)}"


def _warn(cells: Sequence[Cell]) -> None:
    for unprotected in (True, False):  # once for each kind, not once for each run
        for cell in cells:
            if cell.config.no_noise == unprotected:
                options.warned(cell.config)
                break
    if not cells[0].config.is_public:
        warn(
            f"these data are private: each of the {len(cells)} runs is charged to the clients' ledgers, and "
            "none reports an accuracy"
        )


def _work(folder: Path, cells: Sequence[Cell], ledger_dir: Path | None, outcomes: list[Outcome]) -> None:
    from mosaic_secure.report.comparison import carry_out, opened

    def run(config: RunConfig, path: Path, resume: bool) -> None:
        from cli.progress import shown
        from mosaic_secure.engine.local import train

        with shown() as progress:
            train(config, out=path, resume=resume, ledger_dir=ledger_dir, progress=progress)

    def begin(number: int, cell: Cell, state: str) -> None:
        verb = {"done": "is done", "broken off": "resumes"}.get(state, "begins")
        _say(f"[{number}/{len(cells)}] {cell.slug} {verb}")

    with opened(folder, cells):
        for outcome in carry_out(folder, cells, run, begin):
            outcomes.append(outcome)
            if outcome.measured is None:
                _say(f"[{len(outcomes)}/{len(cells)}] {outcome.cell.slug} failed: {outcome.reason}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(folder: Path, cells: Sequence[Cell], outcomes: Sequence[Outcome], json: bool) -> None:
    record = _write(folder, cells, outcomes)
    for rows in (record["rows"], record["against_mosaic"], record["failed"]):
        if rows:
            print_table(_without_empty_columns(rows))
            print()
    for line in record["notes"]:
        print(line)
    print(f"written: {', '.join(record['written'])}")
    if json:
        print_json(record)


def _write(folder: Path, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    from mosaic_secure.report.comparison_table import summarise, write_files

    table = summarise(cells, outcomes)
    written = write_files(folder, table)
    return {"out": str(folder), **table.to_dict(), "written": [str(path) for path in written]}


def _without_empty_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in kept} for row in rows]


def _show_cells(cells: Sequence[Cell], out: Path | None, json: bool) -> None:
    """List the runs with what each is planned to spend; nothing is read but what `out` already holds."""
    from mosaic_secure.errors import UserError
    from mosaic_secure.plan import build_plan
    from mosaic_secure.report.comparison import MISSING, check_request, state_of
    from privacy.errors import PrivacyError

    begun = out is not None and check_request(out, cells)
    planned: dict[tuple[Any, ...], tuple[float | None, str | None]] = {}
    rows = []
    for cell in cells:
        same = (cell.method, cell.preset, cell.trust, cell.alpha, cell.epsilon)  # a seed changes no plan
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
    print_table(_without_empty_columns(rows))
    if json:
        print_json({"runs": rows})
    if any(row["problem"] for row in rows):
        raise typer.Exit(FAILED)
