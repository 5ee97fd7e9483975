"""The server's side of a run: leads it through its stages, each checkpointed, none seeing a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.masking import DEALT, VIEW, unmasking_stage
from mosaic_secure.progress import ProgressCallback
from mosaic_secure.server import enrolment, fine_tuning
from mosaic_secure.server.assembly import Releases
from mosaic_secure.server.courier import Courier
from mosaic_secure.server.encrypted_stage import EncryptedStage
from mosaic_secure.server.local_stage import LocalStage
from mosaic_secure.server.roll import Roll

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["Coordinator"]


class Coordinator:
    """Leads a run through enrolment, encrypted rounds and local training, and ends it at the clients.

    Args:
        courier: reaches all parties.
        run: the open run directory; every stage is checkpointed there and skipped when it is found.
        plan: of the run.
        roster: client id -> public key (hex); identity of the authority under "authority".
        progress: is told about stages; nothing in it depends on private data.
        patience: seconds to wait for an authority that is away.
    """

    def __init__(
        self,
        courier: Courier,
        run: RunDirectory,
        plan: RunPlan,
        roster: Mapping[str, str],
        progress: ProgressCallback,
        patience: float = 0.0,
    ) -> None:
        self._run, self._plan, self._progress = run, plan, progress
        self._roll = Roll(courier, roster, plan.config.min_contributors, progress, patience)

    def collect(self) -> Releases:
        """Everything that the clients release, in the order of the plan."""
        plan, place = self._plan, (self._run, self._plan, self._roll, self._progress)
        self._roll.clients = enrolment.enrol(*place)
        state, images, counts = EncryptedStage(*place).collect()
        classifiers, generators, late = (
            LocalStage(*place).collect(state, images) if plan.config.classifier.enabled else ({}, {}, {})
        )
        zeros = np.zeros(plan.num_classes)
        every = {client: counts.get(client, late.get(client, zeros)) for client in self._roll.clients}
        return Releases(state, images, every, classifiers, generators)

    @property
    def left_out(self) -> list[tuple[str, str, str]]:
        """(stage, client, code) of every client that a stage went on without, earlier attempts included."""
        stages = ["enrol", DEALT, VIEW, *(r.round_id for r in self._plan.rounds)]
        stages += [f"local-{index}" for index in range(self._plan.config.classifier.rounds)]
        stages += [f"fine-tune-{index}" for index in range(self._plan.config.fine_tune.rounds)]
        out = []
        for stage in stages:
            _, facts = self._run.load_stage(stage) or ({}, {})
            codes = facts.get("left_out", facts.get("refused", {}))
            out += [(stage, client, code) for client, code in codes.items()]
            codes = facts.get("left_out_unmasking", {})
            out += [(unmasking_stage(stage), client, code) for client, code in codes.items()]
        _, ended = self._run.load_stage("finish") or ({}, {})
        for stage, codes in ended.get("left_out", {}).items():
            out += [(stage, client, code) for client, code in codes.items()]
        return out

    def fine_tune(self, weights: Mapping[str, np.ndarray], trained: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The global model's state after the private rounds; `trained` names what clients send back."""
        place = (self._run, self._plan, self._roll, self._progress)
        return fine_tuning.fine_tune(*place, weights, trained)

    def finish(self) -> dict[str, Any]:
        """End the run at every client and at the authority; returns signed ledger excerpts and anchors."""
        return enrolment.finish(self._run, self._plan, self._roll)
