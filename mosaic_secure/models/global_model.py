"""The global model of a run, and the prototype expert, built from the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mosaic_secure.models.registry import build_classifier
from mosaic_secure.seeds import derive_seed

if TYPE_CHECKING:
    from torch import nn

    from mosaic_secure.plan import RunPlan

__all__ = [
    "HEAD",
    "build_global_model",
    "build_prototype_model",
    "global_options",
    "prototype_options",
    "same_trunk",
]

HEAD = "prototype_head"
"""Name of the prototype expert's architecture."""


def prototype_options(plan: RunPlan) -> dict[str, Any]:
    """Options of the "prototype_head" architecture that match the run's own encoder."""
    prototypes = plan.config.prototypes
    reduced = {} if prototypes.feature_size is None else {"feature_side": prototypes.feature_size}
    return {
        **reduced,
        "encoder": prototypes.encoder,
        "encoder_seed": derive_seed(plan.config.seed, "encoder"),
        "dim": prototypes.dim,
        "pixel_side": prototypes.image_size,
        "pixel_weight": prototypes.pixel_weight,
    }


def global_options(plan: RunPlan) -> dict[str, Any]:
    """Options of the global model: the configuration's, over those that the run implies."""
    chosen = plan.config.global_model
    implied: dict[str, Any] = {}
    if chosen.architecture == HEAD:
        implied = prototype_options(plan)
    elif chosen.architecture == "scatter_head":
        implied = {"encoder_seed": derive_seed(plan.config.seed, "encoder")}
    return {**implied, **chosen.options}


def same_trunk(plan: RunPlan) -> bool:
    """Whether the global model sees the same codes as the prototype expert."""
    options = {name: value for name, value in global_options(plan).items() if name != "hidden"}
    return plan.config.global_model.architecture == HEAD and options == prototype_options(plan)


def global_seed(plan: RunPlan) -> int:
    """Seed of the global model's initial weights."""
    return derive_seed(plan.config.seed, "global-model")


def build_global_model(plan: RunPlan) -> nn.Module:
    """The untrained global model."""
    chosen = plan.config.global_model
    return build_classifier(
        chosen.architecture, plan.image_shape, plan.num_classes, global_seed(plan), **global_options(plan)
    )


def build_prototype_model(plan: RunPlan) -> nn.Module:
    """The prototype expert's network, without what the rounds teach it."""
    return build_classifier(HEAD, plan.image_shape, plan.num_classes, 0, **prototype_options(plan))
