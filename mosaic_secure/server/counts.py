"""Class counts that clients send in the clear: which of them can be used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["usable_counts"]


def usable_counts(
    released: Mapping[str, Mapping[str, np.ndarray]], num_classes: int
) -> dict[str, np.ndarray]:
    """Noised counts, float64 [K], of every client that sent finite ones of that shape.

    Args:
        released: client id -> the arrays of its counts field.
        num_classes: K.
    """
    return {
        client: np.asarray(arrays["counts"], dtype=np.float64)
        for client, arrays in released.items()
        if "counts" in arrays
        and arrays["counts"].shape == (num_classes,)
        and np.isfinite(arrays["counts"]).all()
    }
