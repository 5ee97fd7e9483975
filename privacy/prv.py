"""Numerical composition of Poisson-subsampled Gaussians: privacy-loss random variables, both adjacencies.

The method is that of Gopi, Lee and Wutschitz, *Numerical composition of differential privacy* (NeurIPS 2021,
arXiv 2106.02848), in the implementation of Opacus. Opacus composes the adjacency that removes a record; the
one that adds a record is composed here with the same machinery, because under composition neither dominates
in general (Lebeda et al., *Avoiding pitfalls for privacy accounting of subsampled mechanisms under
composition*, arXiv 2405.20769). The result is the larger of the two upper bounds.

The discretisation error and the share of delta that covers truncation are added on the safe side. Where the
computation leaves its numerical range, or its result contradicts bounds that must hold, the Renyi bound of
Mironov, Talwar and Zhang (arXiv 1908.10530) is returned: looser, and never below the truth.

Importing this module loads Opacus and torch; `privacy.accounting` does so when a history needs it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.prv import (
    Domain,
    PoissonSubsampledGaussianPRV,
    TruncatedPrivacyRandomVariable,
    compose_heterogeneous,
    compute_safe_domain_size,
    discretize,
)
from scipy.fft import next_fast_len
from scipy.special import ndtr

from privacy.accounting import gaussian_epsilon

__all__ = ["renyi_epsilon", "upper_epsilon"]

_SMALLEST_DELTA = 1e-9  # below it a thousandth of delta nears the rounding error of the Fourier transforms
_LARGEST_LOSS = 500.0  # beyond it exp(loss) nears the end of float64
_LARGEST_MESH = 1 << 20  # points of the discretised loss: bounds time and memory
_RELATIVE_ERROR = 0.002  # of epsilon, spent on the discretisation
_SMALLEST_ERROR = 5e-4
_LARGEST_ERROR = 0.02  # of epsilon: a mesh coarser than this is worth less than the Renyi bound

Sampled = tuple[tuple[float, float, int], ...]  # (noise multiplier, sample rate, steps)


def upper_epsilon(
    mu: float, sampled: Sampled, delta: float, adjacencies: Sequence[str] = ("remove", "add")
) -> float:
    """Upper bound on epsilon at `delta` of one mu-GDP mechanism together with subsampled Gaussians.

    Args:
        mu: of all plain Gaussians together; 0 if there are none.
        sampled: (noise multiplier, sample rate, steps) of each distinct subsampled Gaussian; not empty.
        delta: in (0, 1).
        adjacencies: both, unless one of them is to be looked at by itself.

    Returns:
        epsilon >= 0; `math.inf` where not even the Renyi bound is finite.
    """
    history = [*sampled, (1.0 / mu, 1.0, 1)] if mu > 0.0 else list(sampled)
    renyi = renyi_epsilon(history, delta)
    if delta < _SMALLEST_DELTA or not renyi < _LARGEST_LOSS:
        return renyi
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            bound = _prv_epsilon(history, delta, renyi, adjacencies)
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        return renyi
    # the whole cannot cost less than its plain Gaussians alone, nor more than the Renyi bound
    return bound if gaussian_epsilon(mu, delta) <= bound <= renyi else renyi


def renyi_epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    """The Renyi bound on epsilon at `delta` of (noise multiplier, sample rate, steps) entries.

    Opacus' RDP accountant over its default orders; valid for both adjacencies (Mironov, Talwar and Zhang,
    arXiv 1908.10530, Section 3). It may be `math.inf`.
    """
    accountant = RDPAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            epsilon = float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError):
        return math.inf
    return math.inf if math.isnan(epsilon) else max(epsilon, 0.0)


class _AddedRecordPRV(PoissonSubsampledGaussianPRV):
    """Privacy loss of the adjacency that adds a record: log(p0/p1) under p0.

    p0 is N(0, s^2) and p1 is (1-q) N(0, s^2) + q N(1, s^2), so the loss at x is
    -log(1 - q + q exp((2x-1) / (2 s^2))), which falls in x and stays below -log(1-q).
    """

    def cdf(self, t):
        rate, sigma = self.sample_rate, self.noise_multiplier
        odds = (np.exp(-np.asarray(t)) - (1.0 - rate)) / rate
        reached = odds > 0.0
        x = sigma * sigma * np.log(np.where(reached, odds, 1.0)) + 0.5
        return np.where(reached, ndtr(-x / sigma), 1.0)


def _prv_epsilon(
    history: list[tuple[float, float, int]], delta: float, scale: float, adjacencies: Sequence[str]
) -> float:
    """The largest of the upper bounds; `scale` is the rough size of epsilon and sets the mesh."""
    delta_error = delta / 1000
    times = [steps for _, _, steps in history]
    losses = {
        "remove": [PoissonSubsampledGaussianPRV(rate, sigma) for sigma, rate, _ in history],
        "add": [_AddedRecordPRV(rate, sigma) for sigma, rate, _ in history],
    }
    wanted = max(_SMALLEST_ERROR, _RELATIVE_ERROR * scale)
    reach = compute_safe_domain_size(losses["remove"], times, wanted, delta_error)
    per_error = math.sqrt(sum(times) * math.log(12 / delta_error) / 2)
    error = max(wanted, 2 * reach * per_error / _LARGEST_MESH)
    if error > max(_SMALLEST_ERROR, _LARGEST_ERROR * scale) or reach > _LARGEST_LOSS:
        return math.inf  # the Renyi bound is tighter
    step = error / per_error
    half = next_fast_len(math.ceil(reach / step) + 1, real=True)  # a wider domain that transforms fast
    domain = Domain.create_aligned(-(half - 1.5) * step, (half - 1.5) * step, step)
    bounds = []
    for adjacency in adjacencies:
        cut = [TruncatedPrivacyRandomVariable(v, domain.t_min, domain.t_max) for v in losses[adjacency]]
        composed = compose_heterogeneous([discretize(v, domain) for v in cut], times)
        bounds.append(float(composed.compute_epsilon(delta, delta_error, error)[2]))
    if any(math.isnan(bound) for bound in bounds):
        return math.inf
    return max(0.0, *bounds)
