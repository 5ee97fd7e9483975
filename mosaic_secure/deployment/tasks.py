"""Work that Flower hands out: the tasks of a SuperLink (server) or a SuperNode (client), by its Runtime API.

Flower would start a process for each task, which loads the app that the server sent along. Here the processes
that answer are this package's own, and run the apps that are installed: no code comes from elsewhere. This
leans on internals of the one Flower version that is pinned; ``tests/mosaic_secure/deployment`` hold them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.supercore.runtime import RuntimeHttpClient

__all__ = ["TaskSource", "beating", "runtime_client"]

_BEAT_SECONDS = 10.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class TaskSource:
    """Where tasks of one kind come from.

    Args:
        address: ``host:port`` of the Runtime API. kind: "serverapp" or "clientapp".
        secret: shared with whoever hands out tasks. root: PEM of the CA, None for plain HTTP on this machine.
    """

    def __init__(self, address: str, kind: str, secret: bytes, root: bytes | None = None) -> None:
        from flwr.supercore.constant import TaskType
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
        from flwr.supercore.runtime import RuntimeHttpClient
        from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor

        self._kinds = [{"serverapp": TaskType.SERVER_APP, "clientapp": TaskType.CLIENT_APP}[kind]]
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=root is None,
            root_certificates=root,
            interceptors=[
                RuntimeTracingInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
            ],
        )

    def acquire(self) -> str | None:
        """The token of a task that is now the caller's to do; None if there is none, or nobody hands out."""
        import httpx
        from flwr.proto.runtime_pb2 import AcquireTaskRequest

        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=self._kinds))
        except httpx.HTTPError:
            return None
        return found.token or None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def runtime_client(address: str, token: str, component: str, root: bytes | None = None) -> RuntimeHttpClient:
    """A client of the Runtime API for one task, which `token` names."""
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.runtime.tracing import RuntimeTracingInterceptor

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=root is None,
        root_certificates=root,
        interceptors=[
            RuntimeTracingInterceptor(),
            RuntimeVersionHttpInterceptor(component_name=component),
            RuntimeTokenHttpInterceptor(token),
        ],
    )


@contextlib.contextmanager
def beating(client: Any) -> Iterator[threading.Event]:
    """Tell Flower, as long as the block lasts, that its task is being done.

    Yields:
        an event that is set once Flower says that the task is nobody's any more.
    """
    import httpx
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

    done, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(httpx.TransportError):  # it may be back by the next beat
                try:
                    if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                        lost.set()
                except httpx.HTTPStatusError as error:
                    if error.response.status_code < 500:
                        lost.set()
            if lost.is_set() or done.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()
