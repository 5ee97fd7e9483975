"""How many bytes of trained weights a client sends, from the plan alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mosaic_secure.models.classifiers import trainable_part
from mosaic_secure.models.global_model import build_global_model
from mosaic_secure.models.registry import build_classifier, build_generator, parameter_count

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan

_BYTES = 4  # float32


def model_bytes(plan: RunPlan) -> int:
    """Bytes in the whole run for the client with the largest classifier; fixed public parts are not sent."""
    config, numbers = plan.config, 0
    if config.classifier.enabled:
        largest = max(
            parameter_count(trainable_part(build_classifier(name, plan.image_shape, plan.num_classes, 0))[0])
            for name in config.architecture_groups
        )
        numbers += config.classifier.rounds * largest
    if config.generator.enabled:
        generator = build_generator(
            config.generator.architecture,
            plan.image_shape,
            plan.num_classes,
            seed=0,
            latent_dim=config.generator.latent_dim,
        )
        numbers += parameter_count(generator)
    if config.fine_tune.rounds:
        tuned, _ = trainable_part(build_global_model(plan))
        numbers += config.fine_tune.rounds * parameter_count(tuned)
    return _BYTES * numbers
