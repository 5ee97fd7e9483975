"""The server's own word to its SuperLink: which nodes there are, which runs, and to start or stop one."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_secure import __version__
from mosaic_secure.errors import UserError

__all__ = ["Control"]

REQUEST = "request"
_APP = """[project]
name = "mosaic-secure"
version = "{version}"
description = "Runs what is installed at each party."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "mosaic-secure"

[tool.flwr.app.components]
serverapp = "mosaic_secure.deployment.leading:main"
clientapp = "mosaic_secure.client.app:app"

[tool.flwr.app.config]
request = ""
"""


class Control:
    """Speaks to the SuperLink at a port of this machine.

    Args:
        port: of the SuperLink. ca: PEM file of the federation's CA.
    """

    def __init__(self, port: int, ca: Path) -> None:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._port = port
        self._client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def nodes(self) -> Mapping[bytes, int]:
        """Public key -> node id, of all nodes that are registered."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._ask("ListNodes", ListNodesRequest())
        return {bytes(n.public_key): n.node_id for n in answer.nodes_info if n.status != "unregistered"}

    def online(self) -> set[bytes]:
        """Public keys of the nodes that are there."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._ask("ListNodes", ListNodesRequest())
        return {bytes(n.public_key) for n in answer.nodes_info if n.status == "online"}

    def register(self, key: bytes, name: str) -> None:
        """Let the node with this public key in."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        self._ask("RegisterNode", RegisterNodeRequest(public_key=key, name=name))

    def unregister(self, node_id: int) -> None:
        """Let a node in no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._ask("UnregisterNode", UnregisterNodeRequest(node_id=node_id))

    def start(self, request: str) -> int:
        """Start a run for the request of this name; returns Flower's number of it."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest

        answer = self._ask(
            "StartRun",
            StartRunRequest(
                fab=fab_to_proto(_bundle()), override_config=user_config_to_proto({REQUEST: request})
            ),
        )
        if not answer.HasField("run_id"):
            raise UserError(f"server: the SuperLink at port {self._port} did not start the run")
        return int(answer.run_id)

    def stop(self, run: int) -> None:
        """End a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._ask("StopRun", StopRunRequest(run_id=run))

    def has_ended(self, run: int) -> bool:
        """Whether a run does nothing any more, or is one that the SuperLink does not know."""
        from flwr.proto.control_pb2 import ListRunsRequest

        found = self._ask("ListRuns", ListRunsRequest(run_id=run)).run_dict.get(run)
        return found is None or found.status.status == "finished"

    def _ask(self, method: str, request: Any) -> Any:
        import httpx

        try:
            return getattr(self._client, method)(request)
        except httpx.TransportError as error:
            raise UserError(
                f"server: nothing answers at port {self._port} of this machine ({type(error).__name__}); "
                "start it with mosaic-secure serve"
            ) from None
        except httpx.HTTPStatusError as error:
            raise UserError(
                f"server: the SuperLink refused {method} (status {error.response.status_code})"
            ) from None


def _bundle() -> Any:
    """What Flower wants to be sent along with a run: a description. There is no code in it."""
    import contextlib
    import hashlib

    from flwr.cli.build import build_fab_from_files
    from flwr.supercore.fab import Fab

    with contextlib.redirect_stdout(io.StringIO()):
        text = _APP.format(version=__version__.partition("+")[0])
        content, _ = build_fab_from_files({"pyproject.toml": text.encode()})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})
