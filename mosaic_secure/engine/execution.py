"""One message through a ClientApp, as bytes on both sides: in a worker or in the calling process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mosaic_secure.protocol.failures import failed_reply

if TYPE_CHECKING:
    import flwr.clientapp


class AppNotFound(ImportError):
    """The ClientApp reference does not lead to a ClientApp."""


@dataclass(frozen=True)
class Job:
    """One request for one node. ``message`` and ``state`` are protobuf bytes; no bytes are a fresh state."""

    app: str
    node_id: int
    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]
    message: bytes
    state: bytes


@dataclass(frozen=True)
class Outcome:
    """The reply to one request and the node's new state, both as protobuf bytes."""

    reply: bytes
    state: bytes


def load_app(reference: str) -> flwr.clientapp.ClientApp:
    """The ClientApp at ``package.module:attribute``.

    Raises:
        AppNotFound: if there is no such module or attribute, or it is not a ClientApp.
    """
    from flwr.clientapp import ClientApp

    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError, ValueError) as error:
        raise AppNotFound(f"no ClientApp at {reference!r}: {error}") from error
    if not isinstance(app, ClientApp):
        raise AppNotFound(f"{reference!r} is not a ClientApp")
    return app


def execute(job: Job, app: flwr.clientapp.ClientApp) -> Outcome:
    """Run one message through the app. An exception becomes an error reply that tells nothing of it."""
    from flwr.app import Context, RecordDict
    from flwr.common.serde import (
        message_from_proto,
        message_to_proto,
        recorddict_from_proto,
        recorddict_to_proto,
    )
    from flwr.proto.message_pb2 import Message as MessageProto
    from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

    request = message_from_proto(MessageProto.FromString(job.message))
    state = recorddict_from_proto(RecordDictProto.FromString(job.state)) if job.state else RecordDict()
    context = Context(
        run_id=request.metadata.run_id,
        node_id=job.node_id,
        node_config=dict(job.node_config),
        state=state,
        run_config=dict(job.run_config),
    )
    new_state = job.state  # also after a failure
    try:
        reply = app(request, context)
        data = message_to_proto(reply).SerializeToString()
        new_state = recorddict_to_proto(context.state).SerializeToString() if len(context.state) else b""
    except Exception as error:
        data = message_to_proto(failed_reply(request, context, error)).SerializeToString()
    return Outcome(data, new_state)
