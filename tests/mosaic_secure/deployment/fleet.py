"""Flower's own SuperLink behind the guard, in the process of a test, and nodes that send what they please.

What the server does is done at Flower's state; what a node does goes through the nodes' interface, as bytes.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.task_identity import TaskIdentity

from mosaic_secure.deployment.superlink import FLEET, Guard


@dataclass
class Node:
    """A SuperNode: its key, and its number once it was let in."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    node_id: int = 0

    @property
    def public(self) -> bytes:
        return public_key_to_bytes(self.key.public_key())

    def headers(self, age: float = 0.0) -> dict[str, str]:
        """What proves, by Flower, that a request of `age` seconds ago is this node's."""
        signed = (now() - timedelta(seconds=age)).isoformat()
        return {
            FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.public).decode(),
            TIMESTAMP_HEADER: signed,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(self.key, signed.encode())).decode(),
        }


class Link:
    """A SuperLink with one run under way.

    Args:
        app: Flower's. most: largest body, in bytes.
    """

    def __init__(self, app: Any, most: int) -> None:
        self._guarded = Guard(app, most)
        self.state = app.state.linkstate_factory.state()
        self.run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP
        )
        task = self.state.get_run_info(run_ids=[self.run_id])[0].primary_task_id
        assert self.state.claim_task(task) and self.state.activate_task(task)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.run_id, 1, 1

    def let_in(self) -> Node:
        """A node that is registered and there."""
        node = Node()
        node.node_id = self.state.create_node("", "", node.public, 30)
        assert self.state.activate_node(node.node_id, 30)
        return node

    def put_out(self, node: Node) -> None:
        """What the server does with a node whose key was revoked."""
        self.state.delete_node("", node.node_id)

    def post(self, what: str, request: Any, headers: Mapping[str, str]) -> httpx.Response:
        """Send a request, or bytes, to the nodes' interface from another machine."""
        content = request if not hasattr(request, "SerializeToString") else request.SerializeToString()

        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self._guarded, client=("10.0.0.7", 5000))
            async with httpx.AsyncClient(transport=transport, base_url="https://server") as link:
                sent = {"content-type": PROTOBUF_MEDIA_TYPE, **headers}
                return await link.post(f"{FLEET}{what}", content=content, headers=sent)

        return asyncio.run(answer())

    def ask(self, node: Node) -> Message:
        """A request of the server to a node, all of it; returns it with its number."""
        message = Message(RecordDict({"c": ConfigRecord({"x": 1})}), node.node_id, "query.hello")
        message.metadata.__dict__["_message_id"] = message.object_id
        stored, _ = self.state.store_message_and_object_tree(
            remove_content_from_message(message),
            get_object_tree(message),
            self.state.start_session(self.run_id),
        )
        assert stored
        for object_id, part in get_all_nested_objects(message).items():
            self.state.object_store.put(object_id, part.deflate())
        return message

    def replies(self, request: Message) -> list[Message]:
        """What the server finds when it looks for the reply to a request."""
        return self.state.get_message_res({request.metadata.message_id}, self.run_id)


def reply(request: Message, sender: Node, says: int, **metadata: Any) -> PushMessagesRequest:
    """`sender` gives an answer to a request; the message's own metadata may be changed."""
    answer = Message(RecordDict({"c": ConfigRecord({"says": says})}), reply_to=request)
    answer.metadata.__dict__.update({f"_{name}": value for name, value in metadata.items()})
    answer.metadata.__dict__["_message_id"] = answer.object_id
    return PushMessagesRequest(
        node=NodeProto(node_id=sender.node_id),
        messages_list=[message_to_proto(remove_content_from_message(answer))],
        message_object_trees=[get_object_tree(answer)],
    )
