"""Class-conditional generator and discriminator in the manner of DCGAN, without batch normalisation.

The generator uses group normalisation, so that one image depends on its own latent and label only. The
discriminator has no normalisation at all: its per-record gradients are clipped anyway. It scores an image for
a label by an inner product (Miyato and Koyama, 1802.05637, equation 3). For DCGAN itself see Radford et al.,
1511.06434.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mosaic_secure.errors import UserError
from privacy.validation import group_count

SLOPE = 0.2


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels ``[B]`` to indicator rows ``[B, num_classes]``; works under ``vmap``."""
    return (labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)).to(dtype)


class Generator(nn.Module):
    """Maps latents and labels to images in [0, 1].

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: number of labels.
        latent_dim: length of a latent, drawn from a standard normal distribution.
        width: channels of the last hidden layer; each earlier one has twice as many.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, latent_dim: int, width: int
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        channels, height, columns = image_shape
        doublings = _doublings(min(height, columns))
        self._grid = (-(-height // 2**doublings), -(-columns // 2**doublings))
        first = width * 2 ** (doublings - 1)
        self._first = first
        self.project = nn.Linear(latent_dim + num_classes, first * self._grid[0] * self._grid[1])
        layers: list[nn.Module] = [nn.GroupNorm(group_count(first), first), nn.ReLU()]
        incoming = first
        for _ in range(doublings - 1):
            outgoing = incoming // 2
            layers += [
                nn.ConvTranspose2d(incoming, outgoing, 4, stride=2, padding=1),
                nn.GroupNorm(group_count(outgoing), outgoing),
                nn.ReLU(),
            ]
            incoming = outgoing
        layers.append(nn.ConvTranspose2d(incoming, channels, 4, stride=2, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents ``[B, latent_dim]`` and labels ``[B]`` to images ``[B, C, H, W]`` in [0, 1]."""
        code = torch.cat([latents, one_hot(labels, self.num_classes, latents.dtype)], dim=1)
        grid = self.project(code).view(-1, self._first, *self._grid)
        _, height, columns = self.image_shape
        return torch.sigmoid(self.body(grid)[:, :, :height, :columns])


class Discriminator(nn.Module):
    """Scores images given their labels; positive means real.

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: number of labels.
        width: channels of the first layer; each later one has twice as many.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels, height, columns = image_shape
        layers: list[nn.Module] = []
        incoming, outgoing = channels, width
        for _ in range(_doublings(min(height, columns))):
            layers += [nn.Conv2d(incoming, outgoing, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
            height, columns = height // 2, columns // 2
            incoming, outgoing = outgoing, 2 * outgoing
        self.body = nn.Sequential(*layers, nn.Flatten())
        features = incoming * height * columns
        self.score = nn.Linear(features, 1)
        self.match = nn.Linear(num_classes, features, bias=False)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` and labels ``[B]`` to logits ``[B]``."""
        features = self.body(2 * images - 1)
        matched = self.match(one_hot(labels, self.num_classes, images.dtype))
        return self.score(features).squeeze(1) + (features * matched).sum(1) * features.shape[1] ** -0.5


def build_dcgan_generator(
    image_shape: tuple[int, int, int], num_classes: int, *, latent_dim: int = 32, width: int = 16
) -> Generator:
    """Build a generator for images from 8x8 to 64x64 (20k to 200k parameters)."""
    _check(image_shape, latent_dim=latent_dim, width=width)
    return Generator(image_shape, num_classes, latent_dim, width)


def build_dcgan_discriminator(
    image_shape: tuple[int, int, int], num_classes: int, *, width: int = 16
) -> Discriminator:
    """Build the discriminator that goes with :func:`build_dcgan_generator`."""
    _check(image_shape, width=width)
    return Discriminator(image_shape, num_classes, width)


def _doublings(side: int) -> int:
    """Two doublings up to 32 pixels, three beyond."""
    return 2 if side <= 32 else 3


def _check(image_shape: tuple[int, int, int], **sizes: int) -> None:
    channels, height, columns = image_shape
    if channels < 1 or min(height, columns) < 8:
        raise UserError(f"image shape {image_shape}: expected (channels >= 1, height >= 8, width >= 8)")
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} {size}: expected at least 1")
