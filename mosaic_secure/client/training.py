"""A client's local models under DP-SGD: its classifier, its generator, and rounds from the global model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mosaic_secure.client.augmentation import image_views
from mosaic_secure.client.generator_training import (
    GeneratorPlan,
    GeneratorWeights,
    MomentAnchor,
    train_generator,
)
from mosaic_secure.models.classifiers import trainable_part
from mosaic_secure.models.registry import build_classifier, build_discriminator, build_generator
from mosaic_secure.seeds import derive_seed
from privacy.dpsgd import train_private

if TYPE_CHECKING:
    from mosaic_secure.client.session import Session
    from mosaic_secure.config import RunConfig
    from privacy.dpsgd import DPSGDPlan
    from privacy.randomness import NoiseSource

__all__ = ["initial_classifier", "train_classifier", "train_local_generator", "weights_of"]

_SHIFT = 8  # augmentation moves an image by at most 1/8 of its side


def initial_options(config: RunConfig, architecture: str) -> dict[str, int]:
    """Options of an architecture that the run implies: the seed of a fixed public encoder."""
    return {"encoder_seed": derive_seed(config.seed, "encoder")} if architecture == "scatter_head" else {}


def initial_seed(config: RunConfig, architecture: str) -> int:
    """Seed of the weights that all clients of an architecture start from."""
    return derive_seed(config.seed, "classifier", architecture)


def initial_classifier(config: RunConfig, architecture: str, image_shape: tuple, classes: int) -> nn.Module:
    """The network that all clients of an architecture start from."""
    options = initial_options(config, architecture)
    return build_classifier(architecture, image_shape, classes, initial_seed(config, architecture), **options)


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Trained parameters by name, as arrays; fixed public parts are left out."""
    trained, _ = trainable_part(model)
    return {name: value.detach().cpu().numpy().copy() for name, value in trained.named_parameters()}


def set_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Put trained parameters back; all of them, or none.

    Raises:
        ValueError: names or shapes are not the model's, or a number is not finite.
    """
    trained, _ = trainable_part(model)
    parameters = dict(trained.named_parameters())
    if set(parameters) != set(weights):
        raise ValueError("weights: the names are not those of the architecture")
    given = {name: torch.from_numpy(np.asarray(weights[name])) for name in parameters}
    for name, value in parameters.items():
        if given[name].shape != value.shape or not torch.isfinite(given[name]).all():
            raise ValueError(f"weights: {name} has another shape or a number that is not finite")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(given[name])


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: DPSGDPlan,
    noise: NoiseSource,
    augmentations: int = 1,
    proximal: float = 0.0,
    features: Tensor | None = None,
) -> None:
    """Train `model` in place by DP-SGD on cross-entropy; one release under `plan`.

    Args:
        images: [N, C, S, S] in [0, 1]. labels: [N].
        augmentations: views of each record, shifted by up to an eighth of the side, whose gradients are
            averaged before clipping; ignored where only a head on fixed features is trained.
        proximal: mu of the term mu/2 |w - w_start|^2 (FedProx, arXiv 1812.06127, equation 2). Its gradient
            depends on weights alone, so it is added after the noise.
        features: [N, D], what the fixed part of `model` makes of the images, where that is known already.
    """
    trained, transform = trainable_part(model)
    if transform is not None:
        images = fixed_features(transform, images) if features is None else features

    def loss(params: dict, buffers: dict, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(trained, (params, buffers), (image[None],))
        return nn.functional.cross_entropy(logits, label[None])

    reach = max(1, images.shape[-1] // _SHIFT)
    augment = image_views(augmentations, shift=reach) if transform is None else None
    pull = _pull(trained, proximal) if proximal > 0 else None
    train_private(trained, loss, (images, labels), plan, noise, augment=augment, extra_gradient=pull)


@torch.no_grad()
def fixed_features(transform: nn.Module, images: Tensor) -> Tensor:
    """What a fixed trunk makes of images [N, C, S, S]: [N, D], batch by batch."""
    return torch.cat([transform(part) for part in images.split(512)]) if len(images) else images


def _pull(model: nn.Module, weight: float) -> Callable[[int], dict[str, Tensor]]:
    """Gradient of weight/2 |w - w_start|^2, w_start being the parameters as they are now."""
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    parameters = dict(model.named_parameters())
    return lambda _: {name: weight * (parameters[name].detach() - value) for name, value in start.items()}


def train_local_generator(
    session: Session,
    classifier: nn.Module,
    broadcast: Mapping[str, np.ndarray],
    own_counts: np.ndarray | None,
    noise: NoiseSource,
) -> nn.Module:
    """The client's conditional generator, after training against its private discriminator.

    Args:
        classifier: the client's DP-trained one, of this very composition.
        broadcast: "pixel_means" [K, P] and "pixel_seconds" [K, P, P] of pooled pixels where the server has
            moments; empty otherwise.
        own_counts: [K], the client's own noised class counts, which say what labels to ask for.
    """
    config, plan = session.config.generator, session.plan
    sizes = {"latent_dim": config.latent_dim}
    seed = derive_seed(session.config.seed, "generator")
    shape, classes = plan.image_shape, plan.num_classes
    generator = build_generator(config.architecture, shape, classes, seed, **sizes)
    discriminator = build_discriminator(config.architecture, shape, classes, seed)
    anchor = None
    if "pixel_means" in broadcast:
        anchor = MomentAnchor(
            describe=plan.pixel_encoder().pool,
            class_means=torch.from_numpy(broadcast["pixel_means"]).float(),
            class_seconds=torch.from_numpy(broadcast["pixel_seconds"]).float(),
        )
    settings = GeneratorPlan(
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        batch_size=config.batch,
        updates=config.generator_steps,
        warmup=config.warmup if anchor is not None else 0,
        ema_decay=config.ema_decay,
        weights=GeneratorWeights(
            adversarial=config.adversarial,
            diversity=config.diversity,
            entropy=config.entropy,
            label=config.label,
            anchor=config.anchor,
        ),
    )
    data = session.data
    train_generator(
        generator,
        discriminator,
        classifier.eval().requires_grad_(False),
        torch.from_numpy(data.images),
        torch.from_numpy(data.labels),
        plan.dpsgd("generator", data.declared_records),
        noise,
        settings=settings,
        label_prior=None if own_counts is None else torch.from_numpy(own_counts),
        anchor=anchor,
    )
    return generator
