"""A party's side: answers the messages that its SuperNode has received, with the app that is installed."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mosaic_secure.deployment.tasks import TaskSource, beating, runtime_client
from mosaic_secure.engine.execution import Job, Outcome
from mosaic_secure.engine.pool import WorkerPool
from mosaic_secure.protocol.failures import CRASHED

if TYPE_CHECKING:
    from flwr.app import Context, Message

__all__ = ["Answerer", "NodeStuckError"]

CLIENT_APP = "mosaic_secure.client.app:app"
_PAUSE = 0.5  # seconds after which it is looked whether to go on waiting
_HANDING_SECONDS = 10.0  # within which a SuperNode hands out the message that it has rung for
_RETRY_PAUSE = 0.2
_CRASH_CODE = 8


class NodeStuckError(RuntimeError):
    """The SuperNode waits for an answer that it will not get: it must be started anew."""


class Answerer:
    """Answers messages in a worker process of its own, which loads its libraries once.

    Args:
        address: ``host:port`` of the SuperNode's Runtime API on this machine. secret: shared with it.
        node_config: who this party is and where its things lie; no message can change it.
        threads: compute threads. bell: descriptor from which a byte can be read when there is a message.
        told: is called with a line about every message: its kind, and whether it was answered.
        is_up: whether the SuperNode runs; without it an answer has nowhere to go.
    """

    def __init__(
        self,
        address: str,
        secret: bytes,
        node_config: Mapping[str, Any],
        threads: int,
        bell: int,
        told: Callable[[str], None],
        is_up: Callable[[], bool],
    ) -> None:
        self._address, self._node_config, self._told = address, dict(node_config), told
        self._is_up = is_up
        self._source = TaskSource(address, "clientapp", secret)
        self._pool = WorkerPool(CLIENT_APP, 1, threads)
        self._pool.start()
        self._number, self._bell = 0, bell

    def step(self, stop: threading.Event) -> None:
        """Answer a message if there is one; pauses a little if there is none.

        A message is looked for only when the bell rings: Flower names a message before all of it is there.
        Each ring is one message, which may stand behind others that never came whole.

        Raises:
            NodeStuckError: the SuperNode waits for an answer that it will not get.
        """
        self._pool.collect(0.0)  # a worker that has died meanwhile is replaced
        if not select.select([self._bell], [], [], _PAUSE)[0]:
            return
        os.read(self._bell, 1)
        end = time.monotonic() + _HANDING_SECONDS
        while not stop.is_set():
            token = self._source.acquire()
            if token is not None and self._answer(token, stop):
                return
            if token is None and time.monotonic() > end:
                raise NodeStuckError
            if token is None:
                stop.wait(_RETRY_PAUSE)

    def close(self) -> None:
        """End the worker. What it was at is lost, and made again when the server asks again."""
        self._source.close()
        self._pool.close()

    def _answer(self, token: str, stop: threading.Event) -> bool:
        """Do one task; False if its message never came whole."""
        import httpx
        from flwr.common.constant import SubStatus
        from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

        client = runtime_client(self._address, token, "flwr-clientapp")
        try:
            with beating(client) as lost:
                found = _pull(client)
                if found is None:
                    push_task_output(client, None, SubStatus.FAILED, "")
                    return False
                request, context = found
                reply = self._reply(
                    request, context.node_id, lambda: stop.is_set() or lost.is_set() or not self._is_up()
                )
                if reply is None:
                    raise NodeStuckError
                push_message(client, reply, context)
                push_task_output(client, context, SubStatus.COMPLETED, "")
            self._told(f"{request.metadata.message_type}: {'failed' if reply.has_error() else 'answered'}")
            return True
        except (httpx.HTTPError, RuntimeError) as error:  # the server will ask again
            raise NodeStuckError from error
        finally:
            client.close()

    def _reply(self, request: Message, node_id: int, given_up: Callable[[], bool]) -> Message | None:
        """The app's reply. A worker that dies gets a second try, at no cost: releases are made once."""
        from flwr.app import Message as FlowerMessage
        from flwr.app.error import Error
        from flwr.common.serde import message_from_proto, message_to_proto
        from flwr.proto.message_pb2 import Message as MessageProto

        data = message_to_proto(request).SerializeToString()
        for _ in range(2):
            self._number += 1
            self._pool.submit(self._number, Job(CLIENT_APP, node_id, self._node_config, {}, data, b""))
            outcome = self._outcome(self._number, given_up)
            if outcome is None:
                return None
            if isinstance(outcome, Outcome):
                return message_from_proto(MessageProto.FromString(outcome.reply))
        return FlowerMessage(Error(_CRASH_CODE, CRASHED), reply_to=request)

    def _outcome(self, number: int, given_up: Callable[[], bool]) -> Outcome | str | None:
        while not given_up():
            for found, outcome in self._pool.collect(0.2):
                if found == number:
                    return outcome
        return None


def _pull(client: Any) -> tuple[Message, Context] | None:
    """The message of a task; of what else was sent, the app above all, nothing is used.

    A SuperNode hands out a message when all of it is there, or when its run ended before that. Then it is
    never going to be, which Flower would wait for: None.
    """
    from flwr.app import Message as FlowerMessage
    from flwr.common.serde import context_from_proto
    from flwr.proto.node_pb2 import Node
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullTaskInputRequest
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_confirm_message_received_fn_protobuf,
        make_pull_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        ObjectUnavailableError,
        pull_and_inflate_object_from_tree,
    )
    from flwr.supercore.task_identity import TaskIdentity

    task = client.PullTaskInput(PullTaskInputRequest())
    context = context_from_proto(task.context)
    TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, context.run_id
    TaskIdentity.node_id = context.node_id
    listed = client.PullMessages(PullAppMessagesRequest())
    if not listed.messages_list:
        return None
    node, tree = Node(node_id=context.node_id), listed.message_object_trees[0]
    pull = make_pull_object_fn_protobuf(client.PullObject, node, context.run_id)

    def at_once(object_id: str) -> bytes:
        try:
            return pull(object_id)
        except ObjectUnavailableError:
            raise ObjectPullError(object_id, "its run has ended") from None

    confirm = make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id)
    try:
        request = pull_and_inflate_object_from_tree(tree, at_once, confirm, return_type=FlowerMessage)
    except ObjectPullError:
        return None
    request.metadata.__dict__["_message_id"] = tree.object_id
    return request, context
