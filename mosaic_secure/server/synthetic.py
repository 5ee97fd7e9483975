"""Synthetic records from what was released: class Gaussians in pixel space, and the clients' generators.

Everything here is post-processing. The encrypted moments hold the class means and the common covariance
of the pooled pixels, so a sampler comes with the prototypes; no skew of the clients can hurt it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mosaic_secure.seeds import torch_generator
from mosaic_secure.server.prototypes import clean_spectrum

if TYPE_CHECKING:
    from mosaic_secure.models.encoders import Encoder
    from mosaic_secure.server.prototypes import PrototypeState

__all__ = ["MomentSampler", "draw_from_generators", "mix_records"]


class MomentSampler:
    """Images from the class means and the shared within-class covariance of released pixel blocks.

    Args:
        encoder: must have a pixel block.
        state: after the moments round.
    """

    def __init__(self, encoder: Encoder, state: PrototypeState) -> None:
        if not encoder.pixel_dim:
            raise ValueError("pixel_weight: images can be drawn only from codes with a pixel block")
        block = slice(encoder.feature_dim, encoder.dim)
        self._encoder = encoder
        # |code - centre| is about sqrt(1 - |centre|^2) for a typical record: undoes the renormalisation.
        self._radius = math.sqrt(max(1e-3, 1.0 - float(state.centre @ state.centre)))
        self._centre = torch.from_numpy(state.centre[block]).float()
        means, counts = state.means[:, block], state.counts
        self._means = torch.from_numpy(means).float()
        second = (state.vectors[block] * state.values) @ state.vectors[block].T
        within = second / counts.sum() - (means.T * (counts / counts.sum())) @ means
        values, vectors = np.linalg.eigh(within)
        kept = clean_spectrum(values, float(state.noise[0]) / counts.sum())
        self._factor = torch.from_numpy(vectors * np.sqrt(kept)).float()

    def pooled_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means [K, P] and second moments [K, P, P] of standardised pooled pixels, by class; float32."""
        scale = 1.0 / math.sqrt(self._encoder.pixel_weight)
        means = scale * (self._centre + self._radius * self._means)
        factor = scale * self._radius * self._factor
        seconds = means[:, :, None] * means[:, None, :] + (factor @ factor.T)[None]
        return means.numpy(), seconds.numpy()

    def prototypes(self) -> Tensor:
        """One image a class, [K, C, S, S]: the class mean."""
        return self._images(self._means)

    def draw(self, labels: Tensor, seed: int, *names: object) -> Tensor:
        """Images [B, C, S, S] in [0, 1] of the classes `labels` [B]."""
        generator = torch_generator(seed, "moment-sampler", *names)
        deviations = torch.randn(len(labels), self._factor.shape[1], generator=generator) @ self._factor.T
        return self._images(self._means[labels] + deviations)

    def _images(self, blocks: Tensor) -> Tensor:
        return self._encoder.images_from_pixels(self._centre + self._radius * blocks)


@torch.no_grad()
def draw_from_generators(
    generators: Iterable[nn.Module],
    counts: np.ndarray,
    number: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Images and labels from generators, each weighted by its client's noised size.

    Args:
        generators: one a client, conditional on the label.
        counts: [clients, K], noised class counts (negative ones count as zero): weights of clients and
            classes.
        number: how many records; may be 0.

    Returns:
        Images [number, C, S, S] in [0, 1] and labels [number]. A pixel that is not a number is black.
    """
    weights = torch.from_numpy(np.maximum(counts, 0.0)).flatten().double()
    if float(weights.sum()) <= 0:
        weights = torch.ones_like(weights)
    stream = torch_generator(seed, "generator-choice")
    cells = torch.zeros(0, dtype=torch.int64)
    if number:
        cells = torch.multinomial(weights, number, replacement=True, generator=stream)
    owners, labels = cells // counts.shape[1], cells % counts.shape[1]
    images: list[Tensor] = []
    positions: list[Tensor] = []
    for index, generator in enumerate(generators):
        mine = (owners == index).nonzero().flatten()
        if number and not len(mine):
            continue
        stream = torch_generator(seed, "latent", index)
        latent = torch.randn(len(mine), generator.latent_dim, generator=stream)
        model = generator.to(device).eval()
        parts = [
            model(z.to(device), y.to(device)).nan_to_num(0.0).clamp(0.0, 1.0).cpu()
            for z, y in zip(latent.split(512), labels[mine].split(512), strict=True)
        ]
        images.append(torch.cat(parts))
        positions.append(mine)
    order = torch.cat(positions).argsort()
    return torch.cat(images)[order], labels


def mix_records(images: Tensor, seed: int, *names: object) -> Tensor:
    """Convex mixtures of random pairs of records: inputs between classes, where teachers differ most."""
    stream = torch_generator(seed, "mixtures", *names)
    partner = torch.randperm(len(images), generator=stream)
    weight = torch.rand(len(images), 1, 1, 1, generator=stream)
    return weight * images + (1 - weight) * images[partner]
