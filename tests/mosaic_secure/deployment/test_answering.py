"""Whatever app a server sends along with a run, a party answers with the one that is installed."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import context_to_proto, fab_to_proto, message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.proto.run_pb2 import Run
from flwr.proto.runtime_pb2 import (
    PullAppMessagesResponse,
    PullTaskInputResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
    SendTaskHeartbeatResponse,
)
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.deployment import answering
from mosaic_secure.deployment.answering import Answerer
from mosaic_secure.protocol.codec import from_flower, to_flower
from mosaic_secure.protocol.messages import HelloReply, HelloRequest
from privacy.identity import SigningKey

_APP = """[project]
name = "evil"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "evil"

[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "evil:app"
"""


class _SuperNode:
    """Stands for the SuperNode's interface on this machine: one message, and an app that nobody asked for."""

    def __init__(self, request: Message, fab: Fab, config: dict[str, Any]) -> None:
        request.metadata.__dict__["_message_id"] = request.object_id
        self._request = request
        self._parts = {name: part.deflate() for name, part in get_all_nested_objects(request).items()}
        self._fab = fab
        self._context = Context(1, 17, config, RecordDict(), {})
        self.pushed: list[PushAppMessagesRequest] = []
        self.parts: dict[str, bytes] = {}

    def PullTaskInput(self, _: Any) -> PullTaskInputResponse:  # noqa: N802
        run = Run(run_id=1, fab_id="evil/evil", fab_version="1.0.0", fab_hash=self._fab.hash_str)
        context = context_to_proto(self._context)
        return PullTaskInputResponse(context=context, run=run, fab=fab_to_proto(self._fab), task_id=1)

    def PullMessages(self, _: Any) -> PullAppMessagesResponse:  # noqa: N802
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(self._request))],
            message_object_trees=[get_object_tree(self._request)],
        )

    def PullObject(self, asked: Any) -> PullObjectResponse:  # noqa: N802
        content = self._parts[asked.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def PushMessages(self, pushed: PushAppMessagesRequest) -> PushAppMessagesResponse:  # noqa: N802
        self.pushed.append(pushed)
        wanted = [part.object_id for part in iterate_object_tree(pushed.message_object_trees[0])]
        return PushAppMessagesResponse(objects_to_push=wanted)

    def PushObject(self, pushed: PushObjectRequest) -> PushObjectResponse:  # noqa: N802
        self.parts[pushed.object_id] = pushed.object_content
        return PushObjectResponse(stored=True)

    def SendTaskHeartbeat(self, _: Any) -> SendTaskHeartbeatResponse:  # noqa: N802
        return SendTaskHeartbeatResponse(success=True)

    def ConfirmMessageReceived(self, _: Any) -> None: ...  # noqa: N802

    def PushTaskOutput(self, _: Any) -> None: ...  # noqa: N802

    def close(self) -> None: ...


def test_code_that_a_server_sends_is_neither_installed_nor_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\napp = None\n"
    content, _ = build_fab_from_files({"pyproject.toml": _APP.encode(), "evil.py": code.encode()})
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    own = SigningKey.create(tmp_path / "identity.key").public
    config = {"role": "client", "party": "client-0", "home": str(tmp_path), "index": 0}
    node = _SuperNode(to_flower(HelloRequest(version="1"), 17), fab, {"role": "authority"})
    monkeypatch.setattr(answering, "runtime_client", lambda *_: node)
    monkeypatch.setattr(answering.TaskSource, "acquire", lambda _: "token")
    reading, writing = os.pipe()
    told: list[str] = []
    answerer = Answerer("127.0.0.1:1", b"secret", config, 1, reading, told.append, lambda: True)
    try:
        os.write(writing, b"1")
        answerer.step(threading.Event())
    finally:
        answerer.close()
        os.close(reading)
        os.close(writing)
    assert told == ["query.hello: answered"] and len(node.pushed) == 1
    reply = inflate_object_from_contents(node.pushed[0].message_object_trees[0].object_id, node.parts)
    assert from_flower(HelloReply, reply).identity == own  # as the app that is installed answers
    assert not mark.exists() and not (tmp_path / "flower").exists()


def test_an_answer_that_has_nowhere_to_go_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The SuperNode died while its party computes: it is to be started again now, not after a training."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    fab = Fab("0" * 64, b"", {})
    node = _SuperNode(to_flower(HelloRequest(version="1"), 17), fab, {"role": "authority"})
    monkeypatch.setattr(answering, "runtime_client", lambda *_: node)
    monkeypatch.setattr(answering.TaskSource, "acquire", lambda _: "token")
    monkeypatch.setattr(answering.WorkerPool, "submit", lambda *_: None)  # a training without an end
    reading, writing = os.pipe()
    answerer = Answerer("127.0.0.1:1", b"secret", {}, 1, reading, lambda _: None, lambda: False)
    try:
        os.write(writing, b"1")
        with pytest.raises(answering.NodeStuckError):
            answerer.step(threading.Event())
    finally:
        answerer.close()
        os.close(reading)
        os.close(writing)
    assert not node.pushed
