"""Density ratios: a record around which synthetic data are denser than the population was seen in training.

Van Breugel et al., "Membership inference attacks against synthetic data through overfitting detection"
(arXiv 2302.12580): the score is log p_synthetic(x) - log p_population(x). Densities are kernel estimates in
the leading principal directions, since in all pixels every record lies alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

__all__ = ["Directions", "density_ratio", "log_density"]

AT_ONCE = 2**22
"""Distances in memory at a time."""


@dataclass(frozen=True)
class Directions:
    """Principal directions of a population, scaled so that it has variance 1 in each.

    Attributes:
        centre: float64 [P]. axes: float64 [P, D].
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, population: np.ndarray, count: int) -> Directions:
        """The `count` leading directions of features [N, P], fewer where the population has fewer.

        Raises:
            ValueError: fewer than two records, or a count below 1.
        """
        population = np.asarray(population, dtype=np.float64)
        if population.ndim != 2 or len(population) < 2 or count < 1:
            raise ValueError(
                f"population {population.shape}, count {count}: needs [N >= 2, P], and count >= 1"
            )
        centre = population.mean(axis=0)
        _, scale, rows = np.linalg.svd(population - centre, full_matrices=False)
        scale = scale / np.sqrt(len(population) - 1)
        real = min(count, int((scale > 1e-9 * max(scale[0], 1e-300)).sum()))
        return cls(centre, (rows[:real] / scale[:real, None]).T)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Coordinates, float64 [N, D]."""
        return (np.asarray(features, dtype=np.float64) - self.centre) @ self.axes


def log_density(points: np.ndarray, at: np.ndarray, width: float | None = None) -> np.ndarray:
    """Logarithm of a Gaussian kernel density estimate, float64 [M]. The estimate integrates to 1.

    Args:
        points: float64 [N, D] from the density. at: float64 [M, D].
        width: of the kernel; by default Scott's rule, N^(-1 / (D + 4)), for coordinates of about variance 1.
    """
    count, dims = points.shape
    if width is None:
        width = count ** (-1 / (dims + 4))
    scaled, wanted = points / width, at / width
    norms = np.square(scaled).sum(axis=1)
    constant = np.log(count) + dims * (np.log(width) + 0.5 * np.log(2 * np.pi))
    out = np.empty(len(at))
    size = max(1, AT_ONCE // max(1, count))
    for start in range(0, len(at), size):
        part = wanted[start : start + size]
        squares = norms + np.square(part).sum(axis=1)[:, None] - 2 * part @ scaled.T
        out[start : start + size] = special.logsumexp(-0.5 * np.maximum(squares, 0), axis=1)
    return out - constant


def density_ratio(
    records: np.ndarray, synthetic: np.ndarray, population: np.ndarray, dims: int = 8
) -> np.ndarray:
    """Membership scores float64 [N]: log density among synthetic data less that among the population.

    Args:
        records: features [N, P] of those to judge; pixels, or what an encoder makes of them.
        synthetic: features [S, P] of the synthetic data.
        population: features [R, P] of records of the same kind that were not trained on, none of them judged.
        dims: principal directions in which densities are estimated.

    Raises:
        ValueError: as of `Directions.of`, or no synthetic data.
    """
    if len(synthetic) < 1:
        raise ValueError("synthetic: there must be at least one record")
    axes = Directions.of(population, dims)
    places = axes(records)
    return log_density(axes(synthetic), places) - log_density(axes(population), places)
