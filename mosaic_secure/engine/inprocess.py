"""A Flower Grid without sockets to elsewhere: nodes are entries of a table, messages run in worker processes.

It leans on three internals of the pinned Flower version: ``TaskIdentity`` (which ``Message`` reads), ``Run``,
and the protobuf forms of messages and records. ``tests/mosaic_secure/engine`` holds these seams.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.engine.execution import AppNotFound, Job, Outcome, execute, load_app
from mosaic_secure.engine.pool import PRELOAD, WorkerPool
from mosaic_secure.protocol.failures import CRASHED, NOT_LOADED

FIRST_NODE_ID = 1000
_ERROR_CODES = {CRASHED: ErrorCode.CLIENT_APP_CRASHED, NOT_LOADED: ErrorCode.LOAD_CLIENT_APP_EXCEPTION}

Observer = Callable[[Literal["request", "reply"], int, bytes], None]


@dataclass
class _Node:
    config: Mapping[str, Any]
    state: bytes = b""
    queue: deque[int] = field(default_factory=deque)  # messages for this node, the first one in progress


class InProcessGrid(Grid):
    """Runs one ClientApp for every node of a table, each node's messages one after another.

    Args:
        nodes: node id -> ``node_config`` (role, party, home, ...). Ids must not be Flower's own server id, 1.
        app: where the ClientApp is, ``package.module:attribute``.
        workers: worker processes; 0 runs every message in the calling process.
        run_config: ``context.run_config`` of every node.
        threads: compute threads of each worker.
        preload: modules that workers import once, before they are forked.
        run_id: Flower's number of the run.
        pool: started workers of someone else, who also ends them, instead of own ones.
        observer: called with ``"request"`` or ``"reply"``, the node id and the very bytes that passed.

    Messages to different nodes run at the same time, as far as there are workers. ``send_and_receive``
    returns replies in the order of the requests. A client that raises, or whose worker dies, answers with
    an error reply whose reason is one fixed word. ``Context.state`` of a node lives here between its
    messages, as bytes; after a failure it is what it was before. Messages move on only inside calls of this
    object, which is for one thread.
    """

    def __init__(
        self,
        nodes: Mapping[int, Mapping[str, Any]],
        app: str,
        *,
        workers: int,
        run_config: Mapping[str, Any] | None = None,
        threads: int = 1,
        preload: Iterable[str] = PRELOAD,
        run_id: int = 1,
        pool: WorkerPool | None = None,
        observer: Observer | None = None,
    ) -> None:
        if SUPERLINK_NODE_ID in nodes or not nodes:
            raise ValueError(f"nodes: needs at least one node, and none with the id {SUPERLINK_NODE_ID}")
        if workers < 0 or threads < 1:
            raise ValueError("workers must be at least 0 and threads at least 1")
        self._nodes = {node_id: _Node(dict(config)) for node_id, config in nodes.items()}
        self._app = app
        self._run_config = dict(run_config or {})
        self._observer = observer
        self._requests: dict[int, Message] = {}
        self._replies: dict[str, Message] = {}
        self._counter = 0
        self._run = Run.create_empty(run_id)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1
        self._pool, self._lent = pool, pool is not None
        if pool is None and workers:
            self._pool = WorkerPool(app, min(workers, len(nodes)), threads, tuple(preload))
            self._pool.start()

    def __enter__(self) -> InProcessGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, unless they were lent. Messages in progress are lost."""
        if self._pool is not None and not self._lent:
            self._pool.close()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until all workers are ready (not needed before sending); False if ``timeout`` seconds pass.

        Raises:
            EngineError: if the workers do not start.
        """
        return self._pool is None or self._pool.wait_ready(timeout)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [] if self._pool is None else self._pool.pids

    def set_run(self, run: Run) -> None:
        self._run = run
        TaskIdentity.run_id = run.run_id

    @property
    def run(self) -> Run:
        return Run(**vars(self._run))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = self._nodes.get(message.metadata.dst_node_id)
            if node is None:
                raise ValueError(f"there is no node {message.metadata.dst_node_id}")
            if any(message is pending for pending in self._requests.values()):
                raise ValueError("this very message object is still on its way; make a new one")
            self._counter += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._counter}"
            self._requests[self._counter] = message
            node.queue.append(self._counter)
            if len(node.queue) == 1:
                self._start(self._counter)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._progress(0.0)
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        ids = list(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        while any(message_id not in self._replies for message_id in ids):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self._progress(left)
        return self.pull_messages(ids)

    def _start(self, number: int) -> None:
        request = self._requests[number]
        node_id = request.metadata.dst_node_id
        node = self._nodes[node_id]
        data = message_to_proto(request).SerializeToString()
        if self._observer is not None:
            self._observer("request", node_id, data)
        job = Job(self._app, node_id, node.config, self._run_config, data, node.state)
        if self._pool is not None:
            self._pool.submit(number, job)
            return
        try:
            outcome: Outcome | str = execute(job, load_app(self._app))
        except AppNotFound:
            outcome = NOT_LOADED
        self._finish(number, outcome)

    def _progress(self, timeout: float | None) -> None:
        if self._pool is None:
            return
        for number, outcome in self._pool.collect(timeout):
            self._finish(number, outcome)

    def _finish(self, number: int, outcome: Outcome | str) -> None:
        request = self._requests.pop(number)
        node_id = request.metadata.dst_node_id
        node = self._nodes[node_id]
        if isinstance(outcome, Outcome):
            node.state = outcome.state
            if self._observer is not None:
                self._observer("reply", node_id, outcome.reply)
            reply = message_from_proto(MessageProto.FromString(outcome.reply))
            # Who answers, and to what, is for the engine to say, not for the app.
            reply.metadata.__dict__["_src_node_id"] = node_id
            reply.metadata.__dict__["_reply_to_message_id"] = request.metadata.message_id
        else:
            reply = Message(Error(_ERROR_CODES[outcome], outcome), reply_to=request)
        self._counter += 1
        reply.metadata.__dict__["_message_id"] = f"message-{self._counter}"
        self._replies[request.metadata.message_id] = reply
        node.queue.popleft()
        if node.queue:
            self._start(node.queue[0])
