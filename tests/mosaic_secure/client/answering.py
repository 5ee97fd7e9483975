"""A client that answers through the ClientApp, in this process, as it would at a node of any engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_secure.client.session import ClientHome
from mosaic_secure.config import RunConfig
from mosaic_secure.engine.inprocess import InProcessGrid
from mosaic_secure.engine.parties import Federation, provision
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.protocol.codec import decode, to_flower
from mosaic_secure.protocol.fields import Message
from mosaic_secure.protocol.messages import (
    EnrolRequest,
    FineTuneRequest,
    LocalTrainingRequest,
    PrototypeRequest,
    SealRequest,
)
from privacy.canonical import canonical_json

APP = "mosaic_secure.client.app:app"
RUN = "0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    """One reply: its message (None for an error), its word, and all the bytes that left."""

    message: Message | None
    code: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Client:
    """The first of three clients of a federation on the disk; `node`: what its node is configured with."""

    federation: Federation
    plan: RunPlan
    node: dict[str, Any]

    @property
    def home(self) -> ClientHome:
        return ClientHome(self.federation.home / "client-0", "client-0")

    @property
    def roster(self) -> dict[str, str]:
        return {name: key for name, key in self.federation.roster.items() if name != "authority"}

    def ask(self, request: Message) -> Answer:
        return answer(self.node, request)

    def enrol(self, plan: RunPlan | None = None, run_id: str = RUN) -> Answer:
        return self.ask(self.enrolment(plan, run_id))

    def enrolment(self, plan: RunPlan | None = None, run_id: str = RUN) -> EnrolRequest:
        plan = plan or self.plan
        config, budget = (canonical_json(part.to_dict()).decode() for part in (plan.config, plan.budget))
        roster = canonical_json(self.roster).decode()
        return EnrolRequest(run_id=run_id, config_json=config, plan_json=budget, roster_json=roster)

    def requests(self, run_id: str = RUN) -> tuple[Message, ...]:
        """One of each that a client answers about a run; none that could be answered in full but the last."""
        first = self.plan.rounds[0].round_id
        return (
            self.enrolment(run_id=run_id),
            PrototypeRequest(
                run_id=run_id, round_id=first, key_id="", public_context=b"", context_signature=b""
            ),
            LocalTrainingRequest(run_id=run_id, round=0),
            FineTuneRequest(run_id=run_id, round=0, weights={"w": np.zeros(1, dtype=np.float32)}),
            SealRequest(run_id=run_id, final=False),
        )

    @property
    def charged(self) -> int:
        """Releases that the ledger has paid for, in all runs."""
        with self.home.ledger() as ledger:
            return sum(sum(run.releases.values()) for run in ledger.runs())


def client(place: Path, config: RunConfig, **node: Any) -> Client:
    """A federation of that configuration under `place`, with more in the node's configuration."""
    federation = provision(config, place)
    return Client(federation, build_plan(config), {**federation.node_configs(None)[0], **node})


def answer(node: Mapping[str, Any], request: Message) -> Answer:
    """What the ClientApp at a node with this configuration answers."""
    data: list[bytes] = []

    def hear(kind: str, _: int, message: bytes) -> None:
        if kind == "reply":
            data.append(message)

    with InProcessGrid({1000: node}, APP, workers=0, observer=hear) as grid:
        (received,) = grid.send_and_receive([to_flower(request, 1000)])
    if received.has_error():
        return Answer(None, received.error.reason, data[0])
    reply = decode(type(request).reply, received.content)
    return Answer(reply, getattr(reply, "code", "ok"), data[0])
