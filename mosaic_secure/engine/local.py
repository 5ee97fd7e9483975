"""`train`: a whole federation on this machine, from a configuration to a sealed run directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mosaic_secure import __version__
from mosaic_secure.config import RunConfig, config_hash
from mosaic_secure.data import check_available, load_partition
from mosaic_secure.engine.parties import Federation, provision
from mosaic_secure.errors import UserError
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.progress import Progress, ProgressCallback, ReadingCallback
from mosaic_secure.runs.directory import RunDirectory, default_run_path
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from mosaic_secure.engine.discovery import Node
    from mosaic_secure.engine.keeping import WorkerKeeper

__all__ = ["RunResult", "Venue", "Witness", "ledger_place", "train"]

CLIENT_APP = "mosaic_secure.client.app:app"
LEDGER_VARIABLE = "MOSAIC_LEDGER_DIR"
DEFAULT_LEDGERS = "ledgers"
_MOST_WORKERS = 8


class Witness(Protocol):
    """Who looks on while a run is made, as the server would; for audits."""

    def begin(self, federation: Federation, run_id: str, plan: RunPlan) -> None:
        """The clients are enrolled, and nothing has been asked of them yet. Not called by a resumed run."""

    def observe(self, kind: Literal["request", "reply"], node_id: int, message: bytes) -> None:
        """The very bytes of one message between server and a party."""


@dataclass(frozen=True)
class Venue:
    """Parties that are elsewhere and look after themselves, reached through a grid that is open.

    Attributes:
        roster: party id -> public key (hex); the authority is "authority".
        find: party id -> node of those that are there.
        patience: seconds to wait for the answers to a request.
    """

    grid: Grid
    roster: Mapping[str, str]
    find: Callable[[], Mapping[str, Node]]
    patience: float


@dataclass(frozen=True)
class RunResult:
    """What a finished run tells.

    Attributes:
        accuracy: of the global model on the public test part; None where there is none. Of a local run, which
            has no global model, the mean over its clients' classifiers.
        balanced_accuracy, auc: of the same, see `server/scoring.py`; the fields of the teacher likewise.
        epsilon: the largest over clients of what the accountant composes from what was done.
        fresh_student_accuracy: of a plain network that learnt from the run's synthetic records alone, if any.
        seconds: of this call. ablation: rows of `--ablate`, or empty.
    """

    run: str
    dataset: str
    clients: int
    accuracy: float | None
    epsilon: float
    delta: float
    seconds: float
    device: str
    balanced_accuracy: float | None = None
    auc: float | None = None
    teacher_accuracy: float | None = None
    teacher_balanced_accuracy: float | None = None
    teacher_auc: float | None = None
    fresh_student_accuracy: float | None = None
    trust: str = "local"
    method: str = "mosaic"
    ablation: tuple[dict[str, Any], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an infinite epsilon is left to the writer."""
        record = dict(vars(self))
        record["ablation"] = list(self.ablation)
        if not self.ablation:
            del record["ablation"]
        if self.fresh_student_accuracy is None:
            del record["fresh_student_accuracy"]
        return record


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    ledger_dir: Path | None = None,
    progress: ProgressCallback | None = None,
    ablate: bool = False,
    witness: Witness | None = None,
    keeper: WorkerKeeper | None = None,
    read: ReadingCallback | None = None,
    venue: Venue | None = None,
    client_app: str = CLIENT_APP,
) -> RunResult:
    """Run the federation of `config` and leave a sealed run in `out`.

    Args:
        out: the run directory; a fresh one under runs/ when None. It must be new or empty unless `resume`.
        ledger_dir: where the parties live; `MOSAIC_LEDGER_DIR` or ./ledgers when None.
        progress: is told about stages.
        ablate: also measure what each part of the server's work is worth (costs no privacy).
        witness: sees all that the server sends and receives; for audits, and the engine "inprocess" alone.
        keeper: keeps worker processes from run to run; engine "inprocess" alone.
        read: is told losses of the server's own training, which follow from what clients released.
        venue: where the parties are, if they are not to be simulated here.
        client_app: where the ClientApp of all parties is, ``package.module:attribute``; another one than the
            product's is for trying out what hostile clients can do.

    Raises:
        UserError, PrivacyError: bad input or a refused plan; nothing earned is lost, and a run that began can
            be resumed.
    """
    started = time.monotonic()
    if config.engine.name == "deployed" and venue is None:
        raise UserError("engine.name = 'deployed': needs --federation or --local-cluster")
    if ablate and config.method != "mosaic":
        raise UserError(f"--ablate takes the Mosaic method apart, and this run is of {config.method!r}")
    own = config.data.clients_from == "own"
    if own and venue is None:
        raise UserError(
            "data.clients_from = 'own' is for a deployed federation; in a simulation use 'subfolder'"
        )
    tell = progress or (lambda _: None)
    device = _device(config.engine.device)
    check_available(config.data, config.data.root)
    if config.is_public and not own:
        load_partition(config, config.data.root)  # refuses poor clients and empty classes before any cost
    parties = ledger_place(ledger_dir)
    path = out or default_run_path()
    with ExitStack() as stack:
        run = stack.enter_context(
            RunDirectory.create(path, resume=resume, config=config.to_dict(), config_hash=config_hash(config))
        )
        if run.sealed:
            return _stored_result(run)
        try:
            federation = provision(config, parties) if venue is None else None
            launch = (
                _launcher(config, federation, stack, witness, keeper, client_app)
                if federation is not None
                else partial(_on_grid, venue.grid)
            )
            tell(Progress("planning", 0, 1))
            plan = build_plan(config, config.data.root)
            _check_architectures(plan)
            if federation is not None and run.load_stage("enrol") is None:
                federation.check(run.run_id, plan)
                if witness is not None:
                    witness.begin(federation, run.run_id, plan)
        except (UserError, PrivacyError):
            if not resume:  # nothing was asked of any client yet: leave the place as it was
                run.discard()
            raise
        tell(Progress("planning", 1, 1, f"epsilon {plan.budget.epsilon:.4g} at delta {plan.budget.delta:g}"))
        kept: list[dict[str, Any]] = []

        def serve(grid: Grid) -> None:
            from mosaic_secure.server.run import lead

            if venue is None:
                kept.append(lead(grid, run, plan, federation.roster, device, tell, ablate, read))
            else:
                away = venue.find, venue.patience
                kept.append(lead(grid, run, plan, venue.roster, device, tell, ablate, read, *away))

        launch(serve)
        facts = kept[0]
        record = {
            **facts,
            "run": str(path),
            "dataset": config.data.dataset,
            "clients": config.clients.count,
            "delta": plan.budget.delta,
            "device": device,
            "trust": config.privacy.trust,
            "method": config.method,
            "seconds": round(time.monotonic() - started, 2),
        }
        run.seal({"result": record, "versions": _versions(), "mosaic_secure": __version__})
        return RunResult(**record)


def ledger_place(given: Path | None) -> Path:
    """Where the parties live: as given, as `MOSAIC_LEDGER_DIR` says, or ./ledgers."""
    return Path(given or os.environ.get(LEDGER_VARIABLE) or DEFAULT_LEDGERS)


def _launcher(
    config: RunConfig,
    federation: Federation,
    stack: ExitStack,
    witness: Witness | None,
    keeper: WorkerKeeper | None,
    client_app: str,
) -> Callable[[Callable[[Grid], None]], None]:
    """Start the engine's workers now and return a function that runs the server's side on them.

    Workers import their libraries while the caller goes on planning.
    """
    nodes = federation.node_configs(config.data.root)
    workers = config.engine.workers
    if workers is None:
        workers = min(len(nodes) - 1, os.cpu_count() or 1, _MOST_WORKERS)
    threads = config.engine.threads or 1
    if config.engine.name == "simulation":
        if witness is not None:
            raise UserError("engine.name = 'simulation': what is audited must run in engine 'inprocess'")

        def simulate(serve: Callable[[Grid], None]) -> None:
            from mosaic_secure.engine.simulation import run_simulation

            run_simulation(_server_app(serve), client_app, nodes, workers=max(1, workers), threads=threads)

        return simulate
    from mosaic_secure.engine.inprocess import FIRST_NODE_ID, InProcessGrid

    table = {FIRST_NODE_ID + index: node for index, node in enumerate(nodes)}
    observer = None if witness is None else witness.observe
    pool = keeper.pool(client_app, workers, threads) if keeper is not None and workers else None
    grid = stack.enter_context(
        InProcessGrid(table, client_app, workers=workers, threads=threads, pool=pool, observer=observer)
    )

    return partial(_on_grid, grid)


def _on_grid(grid: Grid, serve: Callable[[Grid], None]) -> None:
    """Run the server's side here, on a grid that is open."""
    from flwr.app import Context, RecordDict

    _server_app(serve)(grid, Context(0, 0, {}, RecordDict(), {}))


def _server_app(serve: Callable[[Grid], None]) -> Any:
    """The ServerApp whose main part is `serve`; the same in every engine."""
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, _context: object) -> None:
        serve(grid)

    return app


def _check_architectures(plan: RunPlan) -> None:
    """Build every network of the plan once, so that a mistake is told before any client starts."""
    from mosaic_secure.client.training import initial_classifier
    from mosaic_secure.models.global_model import build_global_model
    from mosaic_secure.models.registry import generator_names

    config = plan.config
    if config.classifier.enabled:
        for name in config.architecture_groups:
            initial_classifier(config, name, plan.image_shape, plan.num_classes)
    build_global_model(plan)
    used = {"generator": config.generator.enabled, "dense": config.method == "dense"}
    for section in (name for name, on in used.items() if on):
        chosen = getattr(config, section).architecture
        if chosen not in generator_names():
            raise UserError(
                f"{section}.architecture = {chosen!r}: must be one of {', '.join(generator_names())}"
            )


def _device(wanted: str) -> str:
    """The device that `--device` names, as torch spells it."""
    if wanted == "cpu":
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if not available or index >= torch.cuda.device_count():
        raise UserError(f"engine.device = {wanted!r}: that device is not there; use 'auto' or 'cpu'")
    return wanted


def _stored_result(run: RunDirectory) -> RunResult:
    record = dict(run.manifest["result"])
    record["epsilon"] = float(record["epsilon"])
    return RunResult(**{**record, "ablation": tuple(record.get("ablation", ()))})


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("torch", "opacus", "tenseal", "flwr", "torchvision", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
