"""Public projections: a mean and a frame of few directions, from a seed and no data.

Random directions keep all of a feature space alike. Principal directions of procedural images keep what
images vary in, and leave out what hardly any image uses.
"""

from __future__ import annotations

import torch
from torch import nn

from mosaic_secure.models.procedural import procedural_images
from mosaic_secure.seeds import torch_generator

__all__ = ["principal_directions", "principal_frame", "random_frame"]

_IMAGES = 1000
_ITERATIONS = 2
_PIECE = 256


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the columns: with these signs there is only one for each first n of them."""
    frame, triangle = torch.linalg.qr(columns)
    return frame * triangle.diagonal().sign()


def random_frame(size: int, dim: int, seed: int) -> torch.Tensor:
    """A random orthonormal frame, [size, dim]."""
    return _orthonormal(torch.randn(size, dim, generator=torch_generator(seed, "projection")))


@torch.no_grad()
def principal_frame(
    features: nn.Module, image_shape: tuple[int, int, int], dim: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`principal_directions` of procedural images' features: a mean [D] and a frame [D, dim].

    Takes 2 s of a processor for 1x28x28 pixels and 512 directions, 5 s for 1,024, 14 s for those of 3x32x32.
    """
    count = max(_IMAGES, 2 * dim)  # well above the number of directions that they are to span
    images = torch.from_numpy(procedural_images(count, image_shape, seed))
    return principal_directions(torch.cat([features(part) for part in images.split(_PIECE)]), dim, seed)


def principal_directions(rows: torch.Tensor, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [D] of rows [N, D], and nearly the principal directions, [D, dim], of the rows less it.

    Each row less the mean counts with norm one. The directions are found by subspace iteration from a random
    frame (Halko, Martinsson and Tropp, 2011, algorithm 4.4), which another machine's rounding moves little,
    where single eigenvectors of close eigenvalues would turn.
    """
    mean = rows.mean(0)
    rows = nn.functional.normalize(rows - mean, dim=1)
    frame = torch.randn(rows.shape[1], dim, generator=torch_generator(seed, "projection"))
    for _ in range(_ITERATIONS):
        frame = _orthonormal(rows.T @ (rows @ frame))
    return mean, frame
