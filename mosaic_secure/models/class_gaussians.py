"""Images drawn from one Gaussian a class on pooled pixels, enlarged, with random contrast and grain.

Pooled images have no fine detail, and what a network learns from smooth images alone it misses in real ones.
So each image is sharpened by its own random amount and gets grain in proportion to each pixel; neither hangs
on any record.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosaic_secure.errors import UserError

__all__ = ["ClassGaussians", "build_class_gaussians"]


class ClassGaussians(nn.Module):
    """Maps latents and labels to images in [0, 1]; has no parameters to train.

    Args:
        image_shape: ``(channels, height, width)``. num_classes: K.
        side, rank: of the pooled images, and directions along which a class varies: means are [K, P] and
            factors [K, P, rank] for P = channels * side^2.
        widen: multiplies deviations from the class mean.
        sharpen, grain: most of the contrast to its own blur, and of the noise, that an image gets.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        side: int,
        rank: int,
        widen: float,
        sharpen: float,
        grain: float,
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes, self.side, self.rank = image_shape, num_classes, side, rank
        self.widen, self.sharpen, self.grain = widen, sharpen, grain
        pixels = image_shape[0] * side**2
        self.register_buffer("means", torch.zeros(num_classes, pixels))
        self.register_buffer("factors", torch.zeros(num_classes, pixels, rank))
        self.latent_dim = rank + 2 + math.prod(image_shape)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents ``[B, latent_dim]`` and labels ``[B]`` to images ``[B, C, H, W]`` in [0, 1]."""
        deviations, amounts, noise = latents.split([self.rank, 2, latents.shape[1] - self.rank - 2], dim=1)
        images = self.smooth(self.widen * deviations, labels)
        # A normal variable to a uniform one on [0, 1].
        sharpen, grain = (0.5 + 0.5 * torch.erf(amounts / math.sqrt(2.0))).unbind(1)
        blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        images = images + self.sharpen * sharpen.view(-1, 1, 1, 1) * (images - blurred)
        images = images.clamp(0, 1)
        images = images * (1.0 + self.grain * grain.view(-1, 1, 1, 1) * noise.view_as(images))
        return images.clamp(0, 1)

    def smooth(self, deviations: Tensor, labels: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` of deviations ``[B, rank]`` from the class means, as they are enlarged."""
        channels, height, width = self.image_shape
        pixels = self.means[labels] + torch.bmm(self.factors[labels], deviations.unsqueeze(2)).squeeze(2)
        small = pixels.clamp(0, 1).view(-1, channels, self.side, self.side)
        if (height, width) == (self.side, self.side):
            return small
        large = functional.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)
        return large.clamp(0, 1)


def build_class_gaussians(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    side: int = 14,
    rank: int = 80,
    widen: float = 1.0,
    sharpen: float = 0.0,
    grain: float = 0.0,
) -> ClassGaussians:
    """Build the sampler, all of whose means and factors are zero until they are filled in."""
    if side < 1 or rank < 1:
        raise UserError(f"side {side}, rank {rank}: expected at least 1")
    return ClassGaussians(image_shape, num_classes, side, rank, widen, sharpen, grain)
