"""The same ServerApp and ClientApp in Flower's simulation engine, which runs on Ray (an optional extra).

Nodes of that engine know a partition number only. :class:`PartyApp` travels to Ray's workers in place of the
ClientApp and hands it the same ``node_config`` that the in-process engine would.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, RecordDict
from flwr.common.constant import PARTITION_ID_KEY

from mosaic_secure.engine.execution import load_app
from mosaic_secure.errors import UserError
from mosaic_secure.protocol.failures import failed_reply

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp


@dataclass(frozen=True)
class PartyApp:
    """Calls the ClientApp at ``app`` as the party of the node's partition number.

    An exception becomes an error reply that tells nothing of it, as in the other engines.
    """

    app: str
    parties: tuple[Mapping[str, Any], ...]
    run_config: Mapping[str, Any]
    threads: int = 1

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message; ``context.state`` keeps what the app put there."""
        import torch

        torch.set_num_threads(self.threads)
        node_config = dict(self.parties[int(context.node_config[PARTITION_ID_KEY])])
        inner = Context(context.run_id, context.node_id, node_config, context.state, dict(self.run_config))
        try:
            reply = load_app(self.app)(message, inner)
        except Exception as error:
            return failed_reply(message, inner, error)
        context.state = inner.state
        return reply


def run_simulation(
    server_app: ServerApp,
    app: str,
    parties: Sequence[Mapping[str, Any]],
    *,
    run_config: Mapping[str, Any] | None = None,
    workers: int = 2,
    threads: int = 1,
) -> None:
    """Run a ServerApp in Flower's simulation engine, with one node for each party; returns when it is done.

    The ServerApp runs in a thread beside the calling one.

    Args:
        server_app: the ServerApp; its grid has ``len(parties)`` nodes with arbitrary ids.
        app: where the ClientApp is, ``package.module:attribute``.
        parties: the ``node_config`` of every node, in the order of their partition numbers.
        run_config: ``context.run_config`` of the server and of every node.
        workers: Ray actors that work at the same time.
        threads: compute threads of each.

    Raises:
        UserError: if Ray is not installed.
        AppNotFound: if ``app`` is not a ClientApp. What the ServerApp raises passes through.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "engine.name: 'simulation' needs Ray, which is not installed; "
            "install it with pip install 'mosaic-secure[simulation]', or use engine.name = 'inprocess'"
        )
    load_app(app)
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore import telemetry

    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # Flower read its variable when it was imported
    logging.getLogger("flwr").setLevel(logging.WARNING)
    config = dict(run_config or {})
    _run_simulation(
        num_supernodes=len(parties),
        exit_event=telemetry.EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app=PartyApp(app, tuple(dict(party) for party in parties), config, threads),
        server_app=server_app,
        server_app_context=Context(0, 0, {}, RecordDict(), config),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "num_cpus": workers,
                "include_dashboard": False,
                "logging_level": "error",
                "log_to_driver": False,
            },
        },
    )
