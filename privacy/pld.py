"""Privacy-loss distributions of dp-accounting: groups of records, and quick guesses for calibration.

Both are pessimistic and cover both adjacencies (Doroshenko et al., *Connect the dots*, PETS 2022, arXiv
2207.04380). The epsilon that a run reports for one record comes from `privacy.prv` instead.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.stats import binom

__all__ = ["group_upper_epsilon", "quick_epsilon"]

Sampled = tuple[tuple[float, float, int], ...]  # (noise multiplier, sample rate, steps)

_GROUP_INTERVAL = 5e-3
_LARGEST_MU = 60.0  # beyond it losses reach thousands, where nothing useful is left to say


def group_upper_epsilon(mu: float, sampled: Sampled, delta: float, records: int) -> float:
    """Upper bound on epsilon at `delta` for `records` records that come or go together.

    Args:
        mu: of all plain Gaussians for one record; 0 if there are none.
        sampled: (noise multiplier, sample rate, steps) of each distinct subsampled Gaussian; not empty.
        delta: in (0, 1).
        records: at least 1.

    Returns:
        epsilon >= 0; `math.inf` where the losses are too large to compute with.
    """
    if records * max(mu, *(_spread(*entry) for entry in sampled)) > _LARGEST_MU:
        return math.inf
    sizes = np.arange(records + 1)
    parts = [
        pld.from_mixture_gaussian_mechanism(
            sigma, sizes, _binomial(records, rate), value_discretization_interval=_GROUP_INTERVAL
        ).self_compose(steps)
        for sigma, rate, steps in sampled
    ]
    if mu > 0.0:
        parts.append(
            pld.from_gaussian_mechanism(
                1.0 / mu, sensitivity=records, value_discretization_interval=_GROUP_INTERVAL
            )
        )
    return _epsilon(parts, delta)


def quick_epsilon(mu: float, sampled: Sampled, delta: float, scale: float) -> float:
    """A coarse upper bound on epsilon for one record, in hundredths of a second: a guess for calibration.

    Args:
        mu: of all plain Gaussians; 0 if there are none.
        sampled: (noise multiplier, sample rate, steps) of each distinct subsampled Gaussian; may be empty.
        delta: in (0, 1).
        scale: rough size of the answer, which sets the mesh.
    """
    interval = min(max(1e-3 * scale, 5e-4), 0.05)
    parts = [
        pld.from_gaussian_mechanism(
            sigma, value_discretization_interval=interval, sampling_prob=rate
        ).self_compose(steps)
        for sigma, rate, steps in sampled
    ]
    if mu > 0.0:
        parts.append(pld.from_gaussian_mechanism(1.0 / mu, value_discretization_interval=interval))
    return _epsilon(parts, delta) if parts else 0.0


def _spread(sigma: float, rate: float, steps: int) -> float:
    """A rough mu of a subsampled Gaussian: the central limit of Bu et al. (arXiv 1911.11607), capped."""
    return min(rate * math.sqrt(steps * math.expm1(min(sigma**-2, 700.0))), math.sqrt(steps) / sigma)


def _binomial(records: int, rate: float) -> np.ndarray:
    probabilities = binom.pmf(np.arange(records + 1), records, rate)
    return probabilities / probabilities.sum()


def _epsilon(parts: list, delta: float) -> float:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.compose(part)
        epsilon = float(whole.get_epsilon_for_delta(delta))
    return math.inf if math.isnan(epsilon) else max(0.0, epsilon)
