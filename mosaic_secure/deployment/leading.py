"""One run at the server, in a process of its own: ``python -m mosaic_secure.deployment.leading``.

`serve` starts it for each task that the SuperLink hands out. It is the ServerApp that the in-process engine
runs, on Flower's grid. It tells how far it is in the file of the request, and makes the run directory.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mosaic_secure.deployment.leash import hold

if TYPE_CHECKING:
    from mosaic_secure.deployment.requests import Outbox, Request

__all__ = ["TOKEN"]

TOKEN = "MOSAIC_TASK_TOKEN"
GRACE_SECONDS = 30.0
PATIENCE_SECONDS = 3600.0


def main() -> None:
    """Do the task whose token is in the environment, for the federation that is given."""
    hold()
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--federation", type=Path, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    _lead(given.address, given.federation, os.environ.pop(TOKEN))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _lead(address: str, place: Path, token: str) -> None:
    from flwr.common.constant import SubStatus
    from flwr.common.serde import run_from_proto
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid

    from mosaic_secure.deployment.control import REQUEST
    from mosaic_secure.deployment.grid import PatientGrid
    from mosaic_secure.deployment.requests import Outbox, Request
    from mosaic_secure.deployment.tasks import beating

    server = place / "server"
    grid = HttpGrid(address, False, (server / "ca.pem").read_bytes(), token=token)
    client = grid._runtime_client
    with beating(client) as lost:
        threading.Thread(target=_end_when, args=(lost,), daemon=True).start()
        task = client.PullTaskInput(PullTaskInputRequest())
        run = run_from_proto(task.run)
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run)
        name = str(run.override_config[REQUEST])
        request = Request.claim(server, name)
        done = request is not None and _run(request, Outbox(server, name), place, PatientGrid(grid))
    status = SubStatus.COMPLETED if done else SubStatus.FAILED
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
    grid.close()


def _end_when(lost: threading.Event) -> None:
    """A run that Flower has stopped, or given up, is interrupted here."""
    lost.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _run(request: Request, outbox: Outbox, place: Path, grid: Any) -> bool:
    """Make the run, and tell the outcome; True if it is sealed."""
    from mosaic_secure.engine.discovery import DiscoveryError
    from mosaic_secure.errors import UserError
    from privacy.errors import PrivacyError

    try:
        result = _train(request, outbox, place, grid)
    except (UserError, PrivacyError, DiscoveryError) as error:
        outbox.tell("refused", {"error": str(error)})
        return False
    except KeyboardInterrupt:
        outbox.tell("interrupted", {})
        return False
    except Exception as error:
        outbox.tell("failed", {"error": f"{type(error).__name__}: {error}"})
        raise
    outbox.tell("result", {"result": result})
    return True


def _train(request: Request, outbox: Outbox, place: Path, grid: Any) -> dict[str, Any]:
    from mosaic_secure import __version__
    from mosaic_secure.config import RunConfig
    from mosaic_secure.deployment.founding import load_federation
    from mosaic_secure.deployment.gathering import gather
    from mosaic_secure.engine.local import Venue, train
    from mosaic_secure.progress import Progress

    config = RunConfig.from_dict(request.config)
    federation = load_federation(place)
    patience = config.engine.patience or PATIENCE_SECONDS

    def tell(progress: Progress) -> None:
        outbox.tell("progress", vars(progress))

    def find() -> Any:
        return gather(
            grid,
            federation,
            config.min_contributors,
            version=__version__,
            grace=min(GRACE_SECONDS, patience),
            patience=patience,
            note=lambda text: tell(Progress("gathering", note=text)),
        )

    out = Path(request.out)
    result = train(
        config,
        out=out,
        resume=request.resume and (out / "manifest.json").exists(),
        progress=tell,
        ablate=request.ablate,
        venue=Venue(grid, federation.roster, find, patience),
    )
    return result.to_dict()


if __name__ == "__main__":
    main()
