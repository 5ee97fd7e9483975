"""Whether the weights that a client sends are weights of the models that the plan asks it for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.client.training import initial_classifier, weights_of
from mosaic_secure.models.registry import build_generator

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.protocol.messages import LocalTrainingReply

__all__ = ["ExpectedModels"]

Shapes = Mapping[str, tuple[int, ...]]


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
