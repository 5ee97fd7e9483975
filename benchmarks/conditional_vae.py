"""A conditional variational autoencoder that one client trains under DP-SGD; tried, and not in the product.

Kingma and Welling, arXiv 1312.6114, equation 10, with labels given to both halves. Encoder and decoder are
one network and one DP-SGD release; the decoder is built like the product's generator and samples from the
standard normal prior, which costs nothing. The loss is a sum over pixels, so that a record's gradient is far
above the clip and little but noise and direction is left of its length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mosaic_secure.models.generators import SLOPE, build_dcgan_generator, one_hot
from mosaic_secure.models.seeding import build_seeded
from privacy.dpsgd import DPSGDPlan, train_private
from privacy.randomness import NoiseSource

__all__ = ["ConditionalVAE", "build", "train"]

_WIDTH = 16  # of the decoder, as the product builds it
_HIDDEN = 64  # units of the encoder, which is small: each of its numbers is noised in every step
_LEAST = 1e-6  # of a pixel and of its distance from 1, in logarithms


class ConditionalVAE(nn.Module):
    """Images [B, C, S, S] in [0, 1], labels [B] and draws [B, L] to reconstructions, means and log variances.

    Attributes:
        decoder: from latents [B, L] and labels [B] to images; what the client gives away.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent_dim: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.classes = classes
        self.decoder = build_dcgan_generator(image_shape, classes, latent_dim=latent_dim, width=_WIDTH)
        self.body = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(channels * (height // 2) * (width // 2), _HIDDEN),
            nn.LeakyReLU(SLOPE),
        )
        self.code = nn.Linear(_HIDDEN + classes, 2 * latent_dim)

    def forward(self, images: Tensor, labels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = torch.cat([self.body(2 * images - 1), one_hot(labels, self.classes, images.dtype)], dim=1)
        mean, log_variance = self.code(seen).chunk(2, dim=1)
        return self.decoder(mean + draws * (0.5 * log_variance).exp(), labels), mean, log_variance


def build(image_shape: tuple[int, int, int], classes: int, latent_dim: int, seed: int) -> ConditionalVAE:
    """The network that all clients start from."""
    return build_seeded(lambda: ConditionalVAE(image_shape, classes, latent_dim), seed)


def train(
    model: ConditionalVAE,
    images: Tensor,
    labels: Tensor,
    plan: DPSGDPlan,
    noise: NoiseSource,
    *,
    views: int = 1,
    divergence: float = 1.0,
) -> None:
    """Train `model` in place; all of it is one DP-SGD release under `plan`.

    Args:
        images: [N, C, S, S] in [0, 1]. labels: [N].
        views: draws of a record's latent, whose gradients are averaged before they are clipped.
        divergence: weight of the divergence from the prior.
    """
    latent = model.decoder.latent_dim

    def loss(params: dict, buffers: dict, image: Tensor, label: Tensor, draw: Tensor) -> Tensor:
        inputs = (image[None], label[None], draw[None])
        found, mean, log_variance = functional_call(model, (params, buffers), inputs)
        found = found.clamp(_LEAST, 1 - _LEAST)
        error = -(inputs[0] * found.log() + (1 - inputs[0]) * (1 - found).log()).sum()
        return error + divergence * 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()

    def drawn(batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Each record, with latents of its own, as often as there are views."""
        draws = torch.randn(len(batch[0]), views, latent, generator=generator)
        again = [part[:, None].expand(-1, views, *part.shape[1:]) for part in batch[:2]]
        return *again, draws

    # A step without any record is computed on the records as they are, so they carry a draw as well.
    records = (images, labels, torch.zeros(len(images), latent))
    train_private(model, loss, records, plan, noise, augment=drawn)
