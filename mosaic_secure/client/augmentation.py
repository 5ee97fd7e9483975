"""Views of a record for training: its gradient averages them, so it still has one clipped row.

Averaging several views before clipping is what De et al. (2204.13650, section 3.2) call augmentation
multiplicity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mosaic_secure.errors import UserError
from privacy.dpsgd import Augment


def image_views(views: int, *, shift: int = 0, flip: bool = False) -> Augment | None:
    """Return an augmentation of (images, labels) for :func:`privacy.dpsgd.train_private`.

    The first view is the record itself. Every other one is moved by up to ``shift`` pixels each way, with
    zeros moving in, and mirrored left to right half of the time when ``flip`` is set.

    Args:
        views: number of views of each record, at least 1.
        shift: largest move in pixels, at least 0.
        flip: whether views may be mirrored.

    Returns:
        The augmentation, or None when one view is asked for.

    Raises:
        UserError: a value is out of range.
    """
    if views < 1:
        raise UserError(f"augmentations {views}: expected at least 1 view of each record")
    if shift < 0:
        raise UserError(f"shift {shift}: expected at least 0 pixels")
    if views == 1:
        return None

    def augment(batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        images, *others = batch
        moved = [images, *(_vary(images, shift, flip, generator) for _ in range(views - 1))]
        return torch.stack(moved, dim=1), *(_repeat(other, views) for other in others)

    return augment


def _vary(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    rows = torch.arange(height) + torch.randint(-shift, shift + 1, (count, 1), generator=generator)
    columns = torch.arange(width) + torch.randint(-shift, shift + 1, (count, 1), generator=generator)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = (rows + shift).to(images.device), (columns + shift).to(images.device)
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    records = torch.arange(count, device=images.device)[:, None, None]
    return padded[records, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _repeat(values: Tensor, views: int) -> Tensor:
    return values.unsqueeze(1).expand(-1, views, *values.shape[1:])
