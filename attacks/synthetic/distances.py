"""Distances between records and synthetic data.

How near a record lies to synthetic data depends first of all on what kind of record it is. An attack compares
its distance with that to synthetic data of shadow generators, half of which saw the record:
`attacks.membership.scores` does so with `nearness` as the signal. A ratio of nearest neighbours alone proves
nothing, neither a leak nor its absence, and is here for illustration.
"""

from __future__ import annotations

import numpy as np

__all__ = ["nearest", "nearest_ratio", "nearness"]

AT_ONCE = 2**22


def nearest(records: np.ndarray, among: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances to the `count` nearest, float64 [N, count], rising, and their positions, int64.

    Args:
        records: features [N, P]. among: features [M, P], M >= count >= 1.

    Raises:
        ValueError: there are fewer than `count`, or features of another length.
    """
    records, among = (np.asarray(part, dtype=np.float64) for part in (records, among))
    if not 1 <= count <= len(among) or records.ndim != 2 or records.shape[1:] != among.shape[1:]:
        raise ValueError(
            f"records {records.shape}, among {among.shape}: must be [N, P] and [M, P] with M >= {count} >= 1"
        )
    norms = np.square(among).sum(axis=1)
    squares, places = np.empty((len(records), count)), np.empty((len(records), count), dtype=np.int64)
    size = max(1, AT_ONCE // len(among))
    for start in range(0, len(records), size):
        part = records[start : start + size]
        found = norms - 2 * part @ among.T  # less the record's own square, which changes no order
        chosen = np.argpartition(found, count - 1, axis=1)[:, :count]
        # Anew from the difference: cancellation would hide that two records are equal.
        exact = np.square(part[:, None, :] - among[chosen]).sum(axis=2)
        order = exact.argsort(axis=1, kind="stable")
        squares[start : start + size] = np.take_along_axis(exact, order, axis=1)
        places[start : start + size] = np.take_along_axis(chosen, order, axis=1)
    return np.sqrt(squares), places


def nearness(records: np.ndarray, synthetic: np.ndarray, count: int = 1) -> np.ndarray:
    """Minus the logarithm of the mean distance to the `count` nearest synthetic records, float64 [N].

    Finite also for a record that was copied.
    """
    distances, _ = nearest(records, synthetic, count)
    return -np.log(np.maximum(distances.mean(axis=1), 1e-12))


def nearest_ratio(records: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Distance to the nearest synthetic record over that to the second nearest, float64 [N] in [0, 1].

    Small where one synthetic record stands out as near. 1 where two are equally near, or both are copies.
    """
    distances, _ = nearest(records, synthetic, 2)
    return np.divide(distances[:, 0], distances[:, 1], out=np.ones(len(distances)), where=distances[:, 1] > 0)
