"""Noised class counts beside the other arrays of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["counts_in", "named_counts", "other_than_counts"]

_PREFIX = "counts/"


def named_counts(counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Counts by client, float64 [classes] each, under the names that they have in a checkpoint."""
    return {f"{_PREFIX}{client}": array for client, array in counts.items()}


def counts_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The counts by client in the arrays of a checkpoint."""
    return {name.removeprefix(_PREFIX): a for name, a in arrays.items() if name.startswith(_PREFIX)}


def other_than_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All other arrays of a checkpoint."""
    return {name: array for name, array in arrays.items() if not name.startswith(_PREFIX)}
