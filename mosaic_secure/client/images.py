"""A client's images as the rounds of the sampler sum them: pooled, less what is known, over their clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan

__all__ = ["check_broadcast", "image_codes", "pooled"]


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Images float32 [N, C, S, S] averaged over cells to float64 [N, C * side^2]; N may be 0."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    if not len(images):
        return np.zeros((0, images.shape[1] * side**2))
    return adaptive_avg_pool2d(torch.from_numpy(images), side).flatten(1).double().numpy()


def check_broadcast(wanted: EncryptedRound, broadcast: Mapping[str, np.ndarray], plan: RunPlan) -> None:
    """Refuse a broadcast that does not fit the round; asked before anything is charged.

    Beyond its shape nothing is believed of it: whatever it makes of a record is clipped by the mechanism.

    Raises:
        UserError: arrays are missing, left over, of another shape, or not finite.
    """
    pixels, classes = plan.sampler_dim, plan.num_classes
    shapes = {
        "image_centre": {},
        "image_means": {"centre": (pixels,)},
        "image_moments": {"means": (classes, pixels)},
        "image_class_moments": {"means": (classes, pixels), "basis": (pixels, plan.sampler_rank)},
    }[wanted.release]
    if {name: np.shape(array) for name, array in broadcast.items()} != shapes:
        raise UserError(f"broadcast: the arrays of round {wanted.round_id} must be {shapes}")
    for name, array in broadcast.items():
        if not np.isfinite(array).all():
            raise UserError(f"broadcast: {name} has a number that is not finite")


def image_codes(
    wanted: EncryptedRound,
    broadcast: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    plan: RunPlan,
) -> np.ndarray:
    """Codes [N, P] or, in the round of the class moments, [N, R]; norm 1 is where the mechanism clips them.

    Args:
        broadcast: checked by `check_broadcast`.
        images: float32 [N, C, S, S] in [0, 1]. labels: [N].
    """
    known = {name: np.asarray(array, dtype=np.float64) for name, array in broadcast.items()}
    codes = pooled(images, plan.sampler_side)
    if "centre" in known:
        codes = codes - known["centre"]
    if "means" in known:
        codes = codes - known["means"][labels]
    if "basis" in known:
        codes = codes @ known["basis"]
    return codes / plan.image_clip(wanted.release)
