"""The local stage at the server: asks for trained weights, checks them, and averages them between rounds.

What each client sent is a checkpoint of its own, read back when it is needed: of many clients a few are in
memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import LocalTrainingReply, LocalTrainingRequest
from mosaic_secure.server.averages import RunningMean
from mosaic_secure.server.class_sampler import sampler_of
from mosaic_secure.server.contributions import in_parts
from mosaic_secure.server.inspection import ExpectedModels, most_bytes
from mosaic_secure.server.stored import Stored

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.image_moments import ImageState
    from mosaic_secure.server.prototypes import PrototypeState
    from mosaic_secure.server.roll import Roll

__all__ = ["LocalStage"]

Arrays = dict[str, np.ndarray]


class LocalStage:
    """Runs the rounds of local training; a round whose checkpoint is found is not asked for again."""

    def __init__(self, run: RunDirectory, plan: RunPlan, roll: Roll, progress: ProgressCallback) -> None:
        self._run, self._plan, self._roll, self._progress = run, plan, roll, progress
        self._expected = ExpectedModels(plan)
        self._places = plan.config.places

    def collect(
        self, state: PrototypeState | None, images: ImageState | None
    ) -> tuple[Mapping[str, tuple[str, Arrays]], Mapping[str, Arrays], dict[str, np.ndarray]]:
        """Classifiers (averaged in their group between rounds), generators, and counts that come this late.

        Args:
            state, images: of the prototypes and of the sampler, whose moments of pixels the clients are told;
                None without.

        Returns:
            client id -> (architecture, weights), -> weights, -> noised class counts, float64 [K]. The first
            two read a client's weights from its checkpoint whenever they are asked for them.

        Raises:
            UserError, BudgetError, LedgerError: too few clients are left.
        """
        broadcast = self._broadcast(state, images)
        starts: dict[str, Arrays] = {}
        rounds = self._plan.config.classifier.rounds
        for index in range(rounds):
            stage, last = f"local-{index}", index == rounds - 1
            clients = self._done(stage)
            if clients is None:
                clients = self._ask(stage, index, broadcast if last else {}, starts)
            if not last:
                starts = self._averages(stage, clients)
            self._progress(Progress("local training", index + 1, rounds))
        with_generators = clients if self._plan.config.generator.enabled else []
        late = {client: self._part(stage, client, "counts") for client in clients}
        return (
            Stored(clients, lambda c: (self._architecture(c), self._part(stage, c, "classifier"))),
            Stored(with_generators, lambda c: self._part(stage, c, "generator")),
            {client: arrays["counts"] for client, arrays in late.items() if arrays},
        )

    def _done(self, stage: str) -> list[str] | None:
        """The clients whose weights a finished round has, in the order of the roll; None if it is not."""
        found = self._run.load_stage(stage)
        if found is None or "clients" not in found[1]:  # an older version had all weights in one checkpoint
            return None
        clients = [client for client in self._roll.clients if client in found[1]["clients"]]
        whole = all(self._run.has_stage(f"{stage}.{client}") for client in clients)
        return clients if whole else None

    def _ask(self, stage: str, index: int, broadcast: Arrays, starts: Mapping[str, Arrays]) -> list[str]:
        """One round: clients whose weights can be used. The others lose it, by name."""
        roll, last = self._roll, index == self._plan.config.classifier.rounds - 1
        taken: list[str] = []
        refused: dict[str, str] = {}

        def ask(part: Sequence[str]) -> None:  # a function, so that no reply outlives it
            requests = {
                client: LocalTrainingRequest(
                    run_id=self._run.run_id,
                    round=index,
                    broadcast=broadcast,
                    weights=starts.get(self._architecture(client), {}),
                )
                for client in part
            }
            good, bad = roll.answers(stage, requests, LocalTrainingReply)
            for client, reply in good.items():
                start = starts.get(self._architecture(client))
                if fault := self._expected.local_fault(reply, self._places[client], start, last=last):
                    bad[client] = fault
                    continue
                self._keep(stage, client, reply)
                taken.append(client)
            roll.leave_out(stage, bad)
            refused.update(bad)

        sent = sum(array.nbytes for arrays in (broadcast, *starts.values()) for array in arrays.values())
        for part in in_parts(roll.clients, sent + most_bytes(self._plan)[LocalTrainingReply]):
            ask(part)
        roll.need(taken, refused, stage)
        self._run.save_stage(stage, {}, {"left_out": roll.left_out(stage), "clients": taken})
        return taken

    def _keep(self, stage: str, client: str, reply: LocalTrainingReply) -> None:
        arrays = {
            f"{kind}/{name}": value
            for kind in ("classifier", "generator", "counts")
            for name, value in getattr(reply, kind).items()
        }
        self._run.save_stage(f"{stage}.{client}", arrays, {})

    def _part(self, stage: str, client: str, kind: str) -> Arrays:
        """Arrays of one kind that a client sent in a finished round, sorted by name."""
        arrays, _ = self._run.require_stage(f"{stage}.{client}")
        prefix = f"{kind}/"
        return {name.removeprefix(prefix): arrays[name] for name in sorted(arrays) if name.startswith(prefix)}

    def _architecture(self, client: str) -> str:
        return self._plan.config.architecture_of(self._places[client])

    def _averages(self, stage: str, clients: Sequence[str]) -> dict[str, Arrays]:
        """The mean weights of each architecture group."""
        groups: dict[str, RunningMean] = {}
        for client in clients:
            group = groups.setdefault(self._architecture(client), RunningMean())
            group.add(self._part(stage, client, "classifier"))
        return {kind: group.mean() for kind, group in groups.items()}

    def _broadcast(self, state: PrototypeState | None, images: ImageState | None) -> Arrays:
        """What generators are trained towards: moments of pooled pixels, where they were released."""
        if not self._plan.config.generator.enabled:
            return {}
        sampler = sampler_of(self._plan, state, images)
        if sampler is None:
            return {}
        means, seconds = sampler.pooled_moments()
        return {"pixel_means": means, "pixel_seconds": seconds}
