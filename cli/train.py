"""`mosaic-secure train`: run the federation and leave a sealed run directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.errors import Interrupted, terminate_as_interrupt
from cli.output import print_facts, print_json, print_table
from cli.tracked import Log

if TYPE_CHECKING:
    from cli.deployed import Deployed
    from mosaic_secure.config import RunConfig

EXAMPLE = "Example: mosaic-secure train --epsilon 4 --out runs/first"


def train(
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    config: options.Config = None,
    data_root: options.DataRoot = None,
    clients: options.Clients = None,
    partition: options.Partition = None,
    alpha: options.Alpha = None,
    trust: options.Trust = None,
    method: options.Method = None,
    preset: options.Preset = None,
    ablate: Annotated[bool, typer.Option("--ablate", help="Measure what each part is worth.")] = False,
    seed: options.Seed = None,
    device: options.Device = None,
    engine: options.Engine = None,
    ledger_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=options.LEDGERS, rich_help_panel=options.RUN),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="The run directory; default: a fresh one.", rich_help_panel=options.RUN
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out.", rich_help_panel=options.RUN),
    ] = False,
    federation: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Run it with the deployed federation in this folder; its server must be running here.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    local_cluster: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Deploy N clients, key authority and server as processes of this machine, for a trial.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    log: options.Log = None,
    log_dir: options.LogDir = options.LOG_DIR,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print plan and cost, and stop.", rich_help_panel=options.RUN),
    ] = False,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train one classifier from data that no client shows to another, within a privacy budget."""
    if local_cluster is not None and not resume:
        clients = _one_number(clients, local_cluster)
    if local_cluster is not None or federation is not None:
        engine = _only_deployed(engine)
    fields = options.overrides(
        settings,
        privacy__epsilon=epsilon,
        privacy__delta=delta,
        privacy__trust=trust,
        data__root=data_root,
        clients__count=clients,
        partition__kind=partition,
        partition__alpha=alpha,
        method=method,
        preset=preset,
        seed=seed,
        engine__device=device,
        engine__name=engine,
    )
    tracked = Log(log, log_dir)
    chosen = _configuration(config, fields, out, resume)
    tracked.check(chosen)
    if dry_run:
        from cli.budget import show_plan

        show_plan(chosen, json)
        return
    from cli.deployed import Deployed

    deployed = Deployed(federation, local_cluster) if federation or local_cluster else None
    result = _run(chosen, out, resume, ledger_dir, ablate, tracked, deployed)
    _show(result, json)


def _one_number(clients: int | None, cluster: int) -> int:
    from mosaic_secure.errors import UserError

    if clients not in (None, cluster):
        raise UserError(
            f"--clients {clients}: --local-cluster {cluster} has {cluster} clients; give one of them"
        )
    return cluster


def _only_deployed(engine: str | None) -> str:
    from mosaic_secure.errors import UserError

    if engine not in (None, "deployed"):
        raise UserError(f"--engine {engine}: --federation and --local-cluster are an engine of their own")
    return "deployed"


def _configuration(name: str | None, fields: Mapping[str, Any], out: Path | None, resume: bool) -> RunConfig:
    if not resume:
        return options.configuration(name, fields)
    from mosaic_secure.errors import UserError
    from mosaic_secure.runs.resume import PLACES, stored_config

    if out is None:
        raise UserError("--resume: needs --out with the directory of the run to continue")
    if name is None and fields.keys() <= PLACES and out.exists():
        return options.warned(stored_config(out, fields))
    return options.configuration(name, fields)


def _run(
    config: RunConfig,
    out: Path | None,
    resume: bool,
    ledger_dir: Path | None,
    ablate: bool,
    log: Log,
    deployed: Deployed | None,
) -> Any:
    from cli.progress import shown
    from mosaic_secure.runs.directory import default_run_path

    run = out or default_run_path()
    try:
        with terminate_as_interrupt(), shown() as progress, log.beside(run, run.name) as read:
            if deployed is not None:
                return deployed.run(config, run, resume, ablate, ledger_dir, progress)
            from mosaic_secure.engine.local import train as run_federation

            return run_federation(
                config,
                out=run,
                resume=resume,
                ledger_dir=ledger_dir,
                progress=progress,
                ablate=ablate,
                read=read,
            )
    except KeyboardInterrupt:
        more = {**log.options(), **(deployed.options() if deployed is not None else {})}
        raise Interrupted(how_to_resume(run, ledger_dir, ablate, more)) from None


def how_to_resume(run: Path, ledger_dir: Path | None, ablate: bool, more: Mapping[str, object]) -> str:
    """The line that tells how an interrupted run goes on."""
    from mosaic_secure.runs.directory import MANIFEST

    if not (run / MANIFEST).exists():
        return "interrupted before the run began; there is nothing to resume"
    command = ["mosaic-secure", "train", "--resume", "--out", str(run)]
    if ledger_dir is not None:
        command += ["--ledger-dir", str(ledger_dir)]
    if ablate:
        command.append("--ablate")
    for option, value in more.items():
        command += [option, str(value)]
    return f"interrupted; resume with: {shlex.join(command)}"


def _show(result: Any, json: bool) -> None:
    record = result.to_dict()
    table = record.get("ablation")
    if table:
        print_table(table)
        print()
    print_facts({name: value for name, value in record.items() if not isinstance(value, list | dict)})
    if json:
        print_json(record)
