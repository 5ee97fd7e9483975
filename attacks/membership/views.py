"""Views of a record: what a model says about many of them tells more than what it says about one."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

__all__ = ["MOST_VIEWS", "shifted_views"]

_REACH = 2
MOST_VIEWS = (2 * _REACH + 1) ** 2


def shifted_views(images: Tensor, count: int) -> Tensor:
    """Each image as it is and moved by a pixel or two, zeros moving in: [N, V, C, H, W], small moves first.

    Such queries are those of Carlini et al. (arXiv 2112.03570). Nine views are all moves by a pixel at most.

    Args:
        images: [N, C, H, W]. count: V, from 1 to `MOST_VIEWS`; the first view is the image itself.

    Raises:
        ValueError: the count is out of range.
    """
    if not 1 <= count <= MOST_VIEWS:
        raise ValueError(f"views = {count}: must be from 1 to {MOST_VIEWS}")
    steps = range(-_REACH, _REACH + 1)
    moves = sorted(
        itertools.product(steps, steps), key=lambda move: (max(map(abs, move)), sum(map(abs, move)))
    )
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (_REACH,) * 4)
    views = [
        padded[..., _REACH + down : _REACH + down + height, _REACH + right : _REACH + right + width]
        for down, right in moves[:count]
    ]
    return torch.stack(views, dim=1)
