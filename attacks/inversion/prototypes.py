"""Pictures from prototypes: what image has the code that was released as the mean of a class?

A code is what a public, differentiable encoder makes of an image. A mean over many records says what they
have in common; over few, or over equal ones, it shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.inversion.classes import Search, search_pixels

__all__ = ["Matched", "implied_means", "invert_codes"]

Encode = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] to codes [B, D], differentiable."""


@dataclass(frozen=True)
class Matched:
    """Pictures by prototype.

    Attributes:
        images: float32 [K, C, H, W] in [0, 1].
        likeness: float32 [K], cosine between the code of each and what was wanted.
    """

    images: Tensor
    likeness: Tensor


def invert_codes(
    encode: Encode, wanted: Tensor, shape: tuple[int, int, int], search: Search | None = None
) -> Matched:
    """Smooth images whose codes point where the prototypes do.

    Feature inversion in the manner of Mahendran and Vedaldi, "Understanding deep image representations by
    inverting them" (CVPR 2015), by the angle between codes: the mean of codes of norm one is shorter.

    Args:
        encode: the public encoder.
        wanted: prototypes [K, D], not zero.
        shape: of an image, (C, H, W).
        search: its smoothness is per unit of the cosine; noise and views are not used.
    """
    search = search or Search(smoothness=0.1)
    draws = torch.Generator().manual_seed(search.seed)
    targets = wanted.repeat_interleave(search.restarts, dim=0)

    def miss(images: Tensor) -> Tensor:
        return 1.0 - torch.cosine_similarity(encode(images), targets, dim=1)

    images = search_pixels(miss, len(targets), shape, search, draws)
    with torch.no_grad():
        likeness = (1.0 - miss(images)).view(-1, search.restarts)
    best = likeness.argmax(dim=1)
    rows = torch.arange(len(best)) * search.restarts + best
    return Matched(images[rows], likeness.max(dim=1).values)


def implied_means(weights: Tensor, codes: Tensor) -> Tensor:
    """Class means [K, D] of the codes that a linear model was fitted to, but for a factor and a common shift.

    A ridge regression on class sums T with second moments S has weights proportional to S^-1 T, so S times
    the weights gives T back. S is estimated from codes of other records of the kind.

    Args:
        weights: [K, D] of the linear model. codes: [N, D] of other records.
    """
    return weights @ (codes.T @ codes / len(codes))
