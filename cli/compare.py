"""`mosaic-secure compare`: methods against each other at the same data, budget and accountant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.errors import FAILED, Interrupted, terminate_as_interrupt
from cli.grid import (
    as_command,
    how_to_continue,
    show_cells,
    warn_once,
    without_empty_columns,
    work,
)
from cli.output import print_json, print_table, warn
from cli.tracked import Log

if TYPE_CHECKING:
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
        typer.Option(metavar="DIR", help=options.LEDGERS, rich_help_panel=options.RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where all goes; the same one again continues. Default: a fresh one.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    log: options.Log = None,
    log_dir: options.LogDir = options.LOG_DIR,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the runs and what each costs.", rich_help_panel=options.RUN),
    ] = False,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train with several methods and budgets, and write a table and a picture of the accuracies."""
    from mosaic_secure.config import load_config
    from mosaic_secure.report.comparison import FROZEN, opened
    from mosaic_secure.report.comparison_request import Request
    from mosaic_secure.runs.directory import default_run_path

    tracked = Log(log, log_dir)
    fields = options.overrides(settings, data__root=data_root)
    request = Request.parse(methods, epsilons, seeds, trust, alphas)
    cells = request.cells(lambda taken: load_config(config or "digits", taken), fields)
    tracked.check(next((cell.config for cell in cells if cell.config.no_noise), cells[0].config))
    _warn(cells)
    if dry_run:
        show_cells(cells, out, json, FROZEN)
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
        **tracked.options(),
    }
    outcomes: list[Outcome] = []
    try:
        with terminate_as_interrupt(), opened(folder, cells, FROZEN):
            work(folder, cells, ledger_dir, outcomes, tracked)
    except KeyboardInterrupt:
        if outcomes:
            _write(folder, cells, outcomes)
        again = as_command("compare", given, settings)
        raise Interrupted(how_to_continue(again, len(outcomes), len(cells))) from None
    _show(folder, cells, outcomes, json)
    if any(outcome.measured is None for outcome in outcomes):
        raise typer.Exit(FAILED)


def _warn(cells: Sequence[Cell]) -> None:
    warn_once(cells)
    if not cells[0].config.is_public:
        warn(
            f"these data are private: each of the {len(cells)} runs is charged to the clients' ledgers, and "
            "none reports an accuracy"
        )


def _show(folder: Path, cells: Sequence[Cell], outcomes: Sequence[Outcome], json: bool) -> None:
    record = _write(folder, cells, outcomes)
    for rows in (record["rows"], record["against_mosaic"], record["failed"]):
        if rows:
            print_table(without_empty_columns(rows))
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
