"""The local stage at the server: asks for trained weights, checks them, and averages them between rounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.client.training import initial_classifier, weights_of
from mosaic_secure.models.registry import build_generator
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import LocalTrainingReply, LocalTrainingRequest
from mosaic_secure.server.class_sampler import sampler_of
from mosaic_secure.server.counts import usable_counts

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.image_moments import ImageState
    from mosaic_secure.server.prototypes import PrototypeState
    from mosaic_secure.server.roll import Roll

__all__ = ["ExpectedModels", "LocalStage"]

Shapes = Mapping[str, tuple[int, ...]]


class LocalStage:
    """Runs the rounds of local training; a round whose checkpoint is found is not asked for again."""

    def __init__(self, run: RunDirectory, plan: RunPlan, roll: Roll, progress: ProgressCallback) -> None:
        self._run, self._plan, self._roll, self._progress = run, plan, roll, progress

    def collect(
        self, state: PrototypeState | None, images: ImageState | None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
        """Classifiers (averaged in their group between rounds), generators, and counts that come this late.

        Args:
            state, images: of the prototypes and of the sampler, whose moments of pixels the clients are told;
                None without.

        Returns:
            client id -> (architecture, weights), -> weights, -> noised class counts, float64 [K].

        Raises:
            UserError, BudgetError, LedgerError: too few clients are left.
        """
        plan, config, roll = self._plan, self._plan.config, self._roll
        broadcast = self._broadcast(state, images)
        kinds = {client: config.architecture_of(int(client.rsplit("-", 1)[1])) for client in roll.clients}
        starts: dict[str, dict[str, np.ndarray]] = {}
        rounds = config.classifier.rounds
        for index in range(rounds):
            stage, last = f"local-{index}", index == rounds - 1
            found = self._run.load_stage(stage)
            if found is None:
                requests = {
                    client: LocalTrainingRequest(
                        run_id=self._run.run_id,
                        round=index,
                        broadcast=broadcast if last else {},
                        weights=starts.get(kinds[client], {}),
                    )
                    for client in roll.clients
                }
                replies = roll.ask_each(stage, requests, LocalTrainingReply)
                replies = self._checked(stage, replies, kinds, last=last)
                arrays = {
                    f"{kind}/{client}/{name}": value
                    for client, reply in replies.items()
                    for kind in ("classifier", "generator", "counts")
                    for name, value in getattr(reply, kind).items()
                }
                self._run.save_stage(stage, arrays, {"left_out": roll.left_out(stage)})
            else:
                arrays = found[0]
            classifiers, generators, late = _grouped(arrays, roll.clients)
            starts = _averages(classifiers, kinds)
            self._progress(Progress("local training", index + 1, rounds))
        named = {client: (kinds[client], weights) for client, weights in classifiers.items()}
        return named, generators, usable_counts(late, plan.num_classes)

    def _broadcast(self, state: PrototypeState | None, images: ImageState | None) -> dict[str, np.ndarray]:
        """What generators are trained towards: moments of pooled pixels, where they were released."""
        if not self._plan.config.generator.enabled:
            return {}
        sampler = sampler_of(self._plan, state, images)
        if sampler is None:
            return {}
        means, seconds = sampler.pooled_moments()
        return {"pixel_means": means, "pixel_seconds": seconds}

    def _checked(
        self,
        stage: str,
        replies: Mapping[str, LocalTrainingReply],
        kinds: Mapping[str, str],
        *,
        last: bool,
    ) -> dict[str, LocalTrainingReply]:
        """Replies whose weights can be used; the others lose their sender this round, by name."""
        expected = ExpectedModels(self._plan)
        good = {c: r for c, r in replies.items() if expected.fits(r, kinds[c], last=last)}
        bad = {client: "malformed" for client in replies if client not in good}
        self._roll.leave_out(stage, bad)
        self._roll.need(good, self._roll.left_out(stage), stage)
        return good


class ExpectedModels:
    """Names and shapes of all that clients send in local training, from the plan."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._classifier = cache(self._classifier_shapes)
        self._generator = cache(self._generator_shapes)

    def fits(self, reply: LocalTrainingReply, architecture: str, *, last: bool) -> bool:
        """Whether a reply holds a whole classifier of `architecture`, in the last round a generator too,
        every number finite, and nothing else."""
        generator = self._generator() if last and self._plan.config.generator.enabled else {}
        return _fits(reply.classifier, self._classifier(architecture)) and _fits(reply.generator, generator)

    def _classifier_shapes(self, architecture: str) -> Shapes:
        plan = self._plan
        model = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
        return {name: value.shape for name, value in weights_of(model).items()}

    def _generator_shapes(self) -> Shapes:
        plan, config = self._plan, self._plan.config.generator
        model = build_generator(
            config.architecture, plan.image_shape, plan.num_classes, 0, latent_dim=config.latent_dim
        )
        return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _fits(weights: Mapping[str, np.ndarray], shapes: Shapes) -> bool:
    return weights.keys() == shapes.keys() and all(
        value.shape == shapes[name] and value.dtype.kind == "f" and bool(np.isfinite(value).all())
        for name, value in weights.items()
    )


def _grouped(arrays: Mapping[str, np.ndarray], clients: list[str]) -> tuple[dict, dict, dict]:
    """Classifiers, generators and counts, each by client in the order of `clients`, then by tensor.

    A checkpoint does not keep the order of its tensors, and the order of clients decides sums and draws.
    """
    kinds: dict[str, dict[str, dict[str, np.ndarray]]] = {"classifier": {}, "generator": {}, "counts": {}}
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for path in sorted(arrays):
        kind, client, name = path.split("/", 2)
        found.setdefault((kind, client), {})[name] = arrays[path]
    for kind, members in kinds.items():
        members.update((client, found[kind, client]) for client in clients if (kind, client) in found)
    return kinds["classifier"], kinds["generator"], kinds["counts"]


def _averages(
    classifiers: Mapping[str, Mapping[str, np.ndarray]], kinds: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """The mean weights of each architecture group."""
    groups: dict[str, list[Mapping[str, np.ndarray]]] = {}
    for client, weights in classifiers.items():
        groups.setdefault(kinds[client], []).append(weights)
    return {
        kind: {name: np.mean([w[name] for w in members], axis=0) for name in members[0]}
        for kind, members in groups.items()
    }
