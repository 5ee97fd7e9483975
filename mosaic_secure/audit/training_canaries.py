"""One DP-SGD training of a client's classifier, repeated with gradient canaries and every step in sight."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.audit.canary_tests import TRAINING, CanaryTest, against_epsilon

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan

__all__ = ["audit_training", "training_can_be_audited"]

DIRECTIONS = 10
"""Weights for each canary, at least, so that the directions stay apart."""
TESTED = "The guarantee of one classifier's training"


def training_can_be_audited(plan: RunPlan) -> bool:
    """Whether steps of the classifier show their gradient: SGD does, Adam hides it."""
    return plan.config.classifier.enabled and plan.config.classifier.optimizer == "sgd"


def audit_training(
    plan: RunPlan, claim: float, canaries: int, rng: np.random.Generator, data_root: str | None = None
) -> CanaryTest | None:
    """Train a client's classifier as the plan says, with canaries, and test what that may cost.

    The averaging of iterates is left out: it follows from the steps, all of which the auditor sees.

    Args:
        plan: for which `training_can_be_audited`.
        claim: tested where the training alone may cost more than that, as without noise.
        canaries: how many at most; fewer where the classifier is small.
        rng: of directions and coins. The noise of the training is as strong as ever.

    Returns:
        What was found at the first client with records; None where no client has any, or the classifier has
        too few weights to keep two directions apart.
    """
    import torch
    from torch.func import functional_call

    from mosaic_secure.audit.gradient_canaries import train_with_canaries
    from mosaic_secure.client.training import fixed_features, initial_classifier
    from mosaic_secure.data import load_client
    from mosaic_secure.models.classifiers import trainable_part
    from privacy.accounting import compose_epsilon
    from privacy.randomness import NoiseSource

    everybody = (load_client(plan.config, index, data_root) for index in range(plan.config.clients.count))
    found = next(((index, data) for index, data in enumerate(everybody) if len(data.labels)), None)
    if found is None:
        return None
    client, data = found
    architecture = plan.config.architecture_of(client)
    model = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
    trained, trunk = trainable_part(model)
    images = torch.from_numpy(data.images)
    if trunk is not None:
        images = fixed_features(trunk, images)
    dpsgd = replace(plan.dpsgd("classifier", data.declared_records, architecture), ema_decay=0.0)
    size = sum(value.numel() for value in trained.parameters() if value.requires_grad)
    if size // DIRECTIONS < 2:
        return None

    def loss(params: dict, buffers: dict, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = functional_call(trained, (params, buffers), (image[None],))
        return torch.nn.functional.cross_entropy(logits, label[None])

    seen = train_with_canaries(
        trained,
        loss,
        (images, torch.from_numpy(data.labels)),
        dpsgd,
        NoiseSource(secrets.token_bytes(32), "audited-training"),
        min(canaries, size // DIRECTIONS),
        rng,
    )
    epsilon = compose_epsilon([plan.budget.release("classifier").round_event], plan.budget.delta)
    tested = TESTED if epsilon < claim else f"The claim of epsilon {claim:.4g}"
    least = min(epsilon, claim)
    return against_epsilon(TRAINING, tested, seen.scores, seen.included, least, plan.budget.delta)
