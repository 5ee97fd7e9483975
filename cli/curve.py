"""`mosaic-secure curve`: accuracy against epsilon, what it costs to look, and which epsilon to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.curve_looks import ablate_one, audit_all, check_further
from cli.errors import FAILED, VERDICT_FAILED, Interrupted, terminate_as_interrupt
from cli.grid import (
    as_command,
    how_to_continue,
    say,
    show_cells,
    shown_command,
    warn_once,
    without_empty_columns,
    work,
)
from cli.output import print_json, print_table, warn
from cli.tracked import Log

if TYPE_CHECKING:
    from mosaic_secure.report.comparison import Outcome
    from mosaic_secure.report.comparison_request import Cell
    from mosaic_secure.report.curve.gather import Curve

EXAMPLE = "Example: mosaic-secure curve --epsilons 0.5,1,2,4,8,inf --seeds 3 --min-accuracy 0.9"
CHOICE = "Choose for me"
FURTHER = "Look further"
EPSILONS = "0.5,1,2,4,8,inf"


def curve(
    config: options.Config = None,
    epsilons: Annotated[str, typer.Option(metavar="LIST", help="Budgets; each is a point.")] = EPSILONS,
    seeds: Annotated[
        int, typer.Option(metavar="NUMBER", help="Runs of each point; from two on there are intervals.")
    ] = 3,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Methods to stand beside, or none.",
            show_default="central,local; private: none",
        ),
    ] = None,
    trust: options.Trust = None,
    alpha: options.Alpha = None,
    preset: options.Preset = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Choose the smallest epsilon whose accuracy interval lies there.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER", help="Choose the best accuracy up to this epsilon.", rich_help_panel=CHOICE
        ),
    ] = None,
    max_tpr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Most members caught at 1 % false alarms.", rich_help_panel=CHOICE
        ),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Attack every run of Mosaic.", rich_help_panel=FURTHER)
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="With --audit: a fresh run with canaries for each, which can refute its claim.",
            rich_help_panel=FURTHER,
        ),
    ] = False,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate",
            help="Take one further run apart, at the chosen epsilon.",
            rich_help_panel=FURTHER,
        ),
    ] = False,
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
    """Train at several budgets, draw accuracy against epsilon, and choose an epsilon by a rule.

    Every point on private data is a release: the whole sweep is charged to the ledgers, and refused before
    its first run if they cannot pay for it.
    """
    from mosaic_secure.config import load_config
    from mosaic_secure.report.comparison import opened
    from mosaic_secure.report.curve.cost import cost_of_looking
    from mosaic_secure.report.curve.files import write_files
    from mosaic_secure.report.curve.gather import FROZEN
    from mosaic_secure.report.curve.request import CurveRequest, Wanted
    from mosaic_secure.runs.directory import default_run_path

    tracked = Log(log, log_dir)
    fields = options.overrides(settings, data__root=data_root)
    wanted = Wanted(min_accuracy, max_epsilon, max_tpr)
    request = CurveRequest(epsilons, seeds, baselines, trust, alpha, preset, wanted)
    cells = request.cells(lambda taken: load_config(config or "digits", taken), fields)
    check_further(cells, audit, retrain, ablate)
    looking = cost_of_looking(cells)
    _check_payable(cells, out, ledger_dir)
    tracked.check(next((cell.config for cell in cells if cell.config.no_noise), cells[0].config))
    warn_once(cells)
    (say if looking.public else warn)(looking.sentence)
    if dry_run:
        show_cells(cells, out, json, FROZEN, {"looking": looking.to_dict()})
        return
    folder = out or default_run_path()
    given = {
        "--config": config,
        "--epsilons": epsilons,
        "--seeds": seeds,
        "--baselines": baselines,
        "--trust": trust,
        "--alpha": alpha,
        "--preset": preset,
        "--min-accuracy": min_accuracy,
        "--max-epsilon": max_epsilon,
        "--max-tpr": max_tpr,
        "--audit": audit,
        "--retrain": retrain,
        "--ablate": ablate,
        "--data-root": data_root,
        "--ledger-dir": ledger_dir,
        "--out": folder,
        **tracked.options(),
    }
    again, told = as_command("curve", given, settings), shown_command("curve", given, settings)
    outcomes: list[Outcome] = []
    failed: list[dict[str, str]] = []

    def look() -> Curve:
        from mosaic_secure.report.curve.gather import gather

        return gather(folder, cells, outcomes, wanted, looking, failed)

    try:
        with terminate_as_interrupt(), opened(folder, cells, FROZEN):
            _check_payable(cells, folder, ledger_dir)  # now that no other call works in this folder
            work(folder, cells, ledger_dir, outcomes, tracked)
            if audit:
                audit_all(folder, outcomes, retrain, failed)
            if ablate:
                ablate_one(folder, look().shown, outcomes, ledger_dir, failed)
    except KeyboardInterrupt:
        if outcomes:
            write_files(folder, look(), told)
        raise Interrupted(how_to_continue(again, len(outcomes), len(cells))) from None
    found = look()
    written = write_files(folder, found, told)
    _show(found, written)
    if json:
        print_json({**found.to_dict(), "report": str(written[0]), "written": [str(path) for path in written]})
    if found.refuted:
        raise typer.Exit(VERDICT_FAILED)
    if found.failed:
        raise typer.Exit(FAILED)


def _check_payable(cells: Sequence[Cell], out: Path | None, ledger_dir: Path | None) -> None:
    """Refuse what the ledgers cannot pay for, before anything is made."""
    from mosaic_secure.engine.local import ledger_place
    from mosaic_secure.report.comparison import check_request
    from mosaic_secure.report.curve.cost import check_payable
    from mosaic_secure.report.curve.gather import FROZEN

    begun = out is not None and check_request(out, cells, FROZEN)
    check_payable(cells, out if begun else None, ledger_place(ledger_dir))


def _show(found: Curve, written: Sequence[Path]) -> None:
    rows: list[dict[str, Any]] = []
    for name, points in {"mosaic": found.points, **found.baselines}.items():
        for point in points:
            low, high = point.interval or (None, None)
            rows.append(
                {
                    "method": name,
                    "epsilon": point.epsilon,
                    "accuracy": point.row.accuracy,
                    "low": low,
                    "high": high,
                    "seeds": len(point.row.seeds),
                    "attacks_catch_at_most": point.ceiling if name == "mosaic" else None,
                    "ours_caught": None if point.strongest is None else point.strongest[1].rate,
                    "epsilon_shown_at_least": max((b for b, _ in point.lower_bounds.values()), default=None),
                }
            )
    if rows:
        print_table(without_empty_columns(rows))
        print()
    if found.ablation:
        print_table(found.ablation)
        print()
    if found.failed:
        print_table(found.failed)
        print()
    print("attacks catch at most: share of members at 1 % false alarms, by the guarantee")
    for sentence in found.refuted:
        print(f"refuted: {sentence}")
    if found.choice is not None:
        print(found.choice.reason)
    print(found.looking.sentence)
    print(f"written: {', '.join(map(str, written))}")
