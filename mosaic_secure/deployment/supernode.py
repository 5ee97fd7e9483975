"""Flower's SuperNode, which looks for messages more often and comes back sooner. Runs as a child.

Flower asks for messages every three seconds, and processes that answer them ask for work once a second. A
run has some fifty exchanges, so that these pauses would be most of its time; so the SuperLink holds back
its answer until there is something to do, and the node asks again at once. And a node that was killed is
taken for alive, and refused, for up to a minute; so a node remembers its number, and the next process takes
leave in its name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mosaic_secure.deployment.leash import hold

NODE_VARIABLE = "MOSAIC_NODE_FILE"
BELL_VARIABLE = "MOSAIC_BELL"
ASKING_SECONDS = 0.2  # beside what the SuperLink holds back an answer that is empty
_WAITING_SECONDS = 0.1


class _Clock:
    """Stands for the module ``time`` where Flower's loop sleeps."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """A pause of three seconds is one between messages; a shorter one waits for a reply."""
        time.sleep(ASKING_SECONDS if seconds >= 3 else min(seconds, _WAITING_SECONDS))


def _ringing(pull: Callable[..., int | None], bell: int) -> Callable[..., int | None]:
    """Ring, by a byte, when `pull` has brought a message: whoever answers need not ask all the time."""

    def pulled(**given: Any) -> int | None:
        run_id = pull(**given)
        if run_id is not None:
            os.write(bell, b"1")
        return run_id

    return pulled


def _remembering(connect: Callable[..., AbstractContextManager[Any]], path: Path) -> Callable[..., Any]:
    """Connect as `connect` does, after taking leave for the process before, whose node is in `path`."""

    @contextlib.contextmanager
    def connected(address: str, insecure: bool, root: Any, keys: Any, *more: Any) -> Iterator[Any]:
        with contextlib.suppress(OSError, ValueError):
            _take_leave(int(path.read_text("ascii")), address, insecure, root, keys)
        with connect(address, insecure, root, keys, *more) as connection:
            path.write_text(str(connection[0]), "ascii")
            yield connection

    return connected


def _take_leave(node_id: int, address: str, insecure: bool, root: Any, keys: Any) -> None:
    import httpx
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(*keys),
    ]
    with (
        FleetHttpClient.from_server_address(address, insecure, root, interceptors=interceptors) as client,
        contextlib.suppress(httpx.HTTPError, RuntimeError),  # Flower's own way, a minute later
    ):
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))


def main() -> None:
    """Run until the process is told to end; the command line is that of ``flower-supernode``."""
    hold()
    from importlib import import_module

    from flwr.supernode.cli import flower_supernode

    loop = import_module("flwr.supernode.start_client_internal")  # not the function of that name
    loop.time = _Clock()
    loop.http_request_response = _remembering(loop.http_request_response, Path(os.environ[NODE_VARIABLE]))
    loop._pull_and_store_message = _ringing(loop._pull_and_store_message, int(os.environ[BELL_VARIABLE]))
    flower_supernode()


if __name__ == "__main__":
    main()
