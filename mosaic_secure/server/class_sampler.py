"""The sampler of synthetic images from released class moments, and which sampler a run has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mosaic_secure.models.registry import build_generator
from mosaic_secure.seeds import torch_generator
from mosaic_secure.server.synthetic import MomentSampler

if TYPE_CHECKING:
    from mosaic_secure.models.encoders import Encoder
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.server.image_moments import ImageState
    from mosaic_secure.server.prototypes import PrototypeState

__all__ = ["ARCHITECTURE", "ClassSampler", "sampler_of", "sampler_options"]

ARCHITECTURE = "class_gaussians"
_DESCRIBED = 500  # images a class from which moments for the generators are taken
_BATCH = 512


class ClassSampler:
    """Images from the mean and the covariance of each class; post-processing of what was released.

    Args:
        plan: of the run.
        state: after all rounds of the sampler.

    Attributes:
        model: the generator that draws them, as it is kept with the run.
    """

    def __init__(self, plan: RunPlan, state: ImageState) -> None:
        self._classes = plan.num_classes
        self._encoder: Encoder = plan.pixel_encoder()
        self._seed = plan.config.seed
        self.model = build_generator(
            ARCHITECTURE, plan.image_shape, plan.num_classes, 0, **sampler_options(plan)
        )
        values, vectors = np.linalg.eigh(state.covariances)
        factors = state.basis @ (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])
        self.model.means.copy_(torch.from_numpy(state.means))
        self.model.factors.copy_(torch.from_numpy(factors))

    def prototypes(self) -> Tensor:
        """One image a class, [K, C, S, S]: the class mean."""
        return self.model.smooth(torch.zeros(self._classes, self.model.rank), torch.arange(self._classes))

    def draw(self, labels: Tensor, seed: int, *names: object) -> Tensor:
        """Images [B, C, S, S] in [0, 1] of the classes `labels` [B]."""
        generator = torch_generator(seed, "class-sampler", *names)
        parts = [
            self.model(torch.randn(len(part), self.model.latent_dim, generator=generator), part)
            for part in labels.split(_BATCH)
        ]
        return torch.cat(parts)

    def pooled_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means [K, P] and second moments [K, P, P] of standardised pooled pixels, by class; float32.

        Taken from drawn images, neither widened nor sharpened.
        """
        generator = torch_generator(self._seed, "class-moments")
        means, seconds = [], []
        for label in range(self._classes):
            deviations = torch.randn(_DESCRIBED, self.model.rank, generator=generator)
            images = self.model.smooth(deviations, torch.full((_DESCRIBED,), label))
            described = self._encoder.pool(images)
            means.append(described.mean(0))
            seconds.append(described.T @ described / _DESCRIBED)
        return torch.stack(means).numpy(), torch.stack(seconds).numpy()


def sampler_options(plan: RunPlan) -> dict[str, Any]:
    """Options of the sampler's architecture that match the plan."""
    config = plan.config.sampler
    return {
        "side": plan.sampler_side,
        "rank": plan.sampler_rank,
        "widen": config.widen,
        "sharpen": config.sharpen,
        "grain": config.grain,
    }


def sampler_of(
    plan: RunPlan, state: PrototypeState | None, images: ImageState | None
) -> ClassSampler | MomentSampler | None:
    """The sampler that the releases allow: from moments by class, or from those of the prototypes' pixels."""
    if images is not None:
        return ClassSampler(plan, images)
    if state is not None and plan.encoder().pixel_dim:
        return MomentSampler(plan.encoder(), state)
    return None
