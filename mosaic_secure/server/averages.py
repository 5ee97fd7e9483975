"""Means of many clients' weights, taken in one client at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["RunningMean"]


class RunningMean:
    """The mean of float arrays by name, one set of arrays after the other; memory holds the sums alone.

    Bits are those of `np.mean` and `np.average` over all sets at once, in the same order, but for arrays of a
    single number.
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._weighted: dict[str, np.ndarray] = {}
        self._shares: list[float] = []

    def add(self, arrays: Mapping[str, np.ndarray], share: float = 0.0) -> None:
        """Take in one set of arrays, of the names and shapes of the first, with its weight >= 0."""
        for name, array in arrays.items():
            part = array.astype(np.float64) * share
            if self._shares:
                self._sums[name] += array
                self._weighted[name] += part
            else:
                self._sums[name], self._weighted[name] = array.copy(), part
        self._shares.append(share)

    def mean(self) -> dict[str, np.ndarray]:
        """The weighted mean, float64; where no weight is above 0 the plain one, of the arrays' own type."""
        total = np.array(self._shares).sum()
        if total > 0:
            return {name: value / total for name, value in self._weighted.items()}
        number = np.intp(len(self._shares))
        return {name: (value / number).astype(value.dtype) for name, value in self._sums.items()}
