"""The search behind `privacy.budget.plan_budget`: noise multipliers that meet a target epsilon.

Guesses come from quick privacy-loss distributions; what decides is `privacy.accounting.compose_epsilon`,
which is asked once or twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from privacy.accounting import GaussianEvent, SubsampledGaussianEvent, compose_epsilon, gaussian_epsilon
from privacy.errors import BudgetError

if TYPE_CHECKING:
    from privacy.budget import ReleaseRequest

__all__ = ["calibrate"]

_LOWEST, _AIM = 0.99, 0.997  # the composition lands in [0.99, 1.00] of the target
_CLOSE = 0.995  # of the target: a guess that comes this close is not refined
_LARGEST_QUICK = 60.0  # epsilon up to which the quick distributions are quick
_SMALLEST_QUICK = 0.02  # below it their mesh shows


@lru_cache(maxsize=256)  # a sweep, and every party in one process, asks for the same plan again and again
def calibrate(
    requests: tuple[ReleaseRequest, ...], target: float, delta: float, mu: float
) -> tuple[float, ...]:
    """Noise multiplier of each request, rounded up to six digits.

    Args:
        requests: checked, with shares summing to 1.
        target: epsilon, above 0 and finite.
        delta: in (0, 1).
        mu: Gaussian-DP parameter of (target, delta).

    Raises:
        BudgetError: no noise brings the composition into [0.99, 1.00] of the target.
    """
    if all(request.kind == "gaussian" for request in requests):
        return tuple(_noises(requests, mu * (1 - 1e-9), delta, {}))
    guesses: dict[int, float] = {}

    def quick(scale: float) -> float:
        return _guess(requests, _noises(requests, mu * scale, delta, guesses), target, delta)

    def true(scale: float) -> float:
        return _composed(requests, _noises(requests, mu * scale, delta, guesses), delta)

    scale, gap = 1.0, 1.0
    if target <= _LARGEST_QUICK:
        scale = _solve(quick, target * _AIM, scale, tolerance=5e-4)
        gap = true(scale) / target
    if not _CLOSE <= gap <= 1.0 or target > _LARGEST_QUICK:
        scale = _solve(true, target * _AIM, scale, tolerance=2e-3)
    noises = _noises(requests, mu * scale, delta, guesses)
    if not _LOWEST <= _composed(requests, noises, delta) / target <= 1.0:
        asked = f"epsilon {target:g} at delta {delta:g}"
        raise BudgetError(f"no noise meets {asked} closely: use a larger epsilon or delta, or fewer steps")
    return tuple(noises)


def _noises(
    requests: Sequence[ReleaseRequest], mu: float, delta: float, guesses: dict[int, float]
) -> list[float]:
    """Noise of each request when all of them together are worth `mu`; `guesses` keeps the last answers."""
    noises = []
    for index, request in enumerate(requests):
        own = mu * math.sqrt(request.share)
        if request.kind == "gaussian":
            noises.append(_round_up(math.sqrt(request.rounds) / own))
            continue
        central = _central_limit(own, request.sample_rate, request.steps)
        ratio = _match(request, own, delta, central, guesses.get(index, 1.0))
        guesses[index] = ratio
        noises.append(_round_up(central * ratio))
    return noises


def _match(request: ReleaseRequest, mu: float, delta: float, central: float, start: float) -> float:
    """Factor on the central-limit noise at which DP-SGD alone costs what a mu-GDP mechanism costs."""
    wanted = gaussian_epsilon(mu, delta)
    if not _SMALLEST_QUICK <= wanted <= _LARGEST_QUICK:
        return 1.0  # the central limit is close where noise is large; the common factor makes up the rest
    from privacy.pld import quick_epsilon

    def cost(inverse: float) -> float:
        entry = (central / inverse, request.sample_rate, request.steps)
        return quick_epsilon(0.0, (entry,), delta, wanted)

    return 1.0 / _solve(cost, wanted, 1.0 / start, tolerance=2e-3)


def _central_limit(mu: float, rate: float, steps: int) -> float:
    """Noise at which DP-SGD tends to mu-GDP: mu = q sqrt(T (exp(1/s^2) - 1)).

    Bu, Dong, Long and Su, *Deep learning with Gaussian differential privacy* (arXiv 1911.11607), Section 2.4.
    It serves as a guess only: it is no upper bound. Where mu is large it asks for far more noise than the
    same steps on all records need, sqrt(T) / mu, which is then the guess.
    """
    limit = 1.0 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
    return min(limit, math.sqrt(steps) / mu)


def _events(requests: Sequence[ReleaseRequest], noises: Sequence[float]) -> list:
    return [
        GaussianEvent(sigma, request.rounds)
        if request.kind == "gaussian"
        else SubsampledGaussianEvent(sigma, request.sample_rate, request.steps)
        for request, sigma in zip(requests, noises, strict=True)
    ]


def _composed(requests: Sequence[ReleaseRequest], noises: Sequence[float], delta: float) -> float:
    return compose_epsilon(_events(requests, noises), delta)


def _guess(requests: Sequence[ReleaseRequest], noises: Sequence[float], target: float, delta: float) -> float:
    from privacy.pld import quick_epsilon

    gaussian, sampled = 0.0, []
    for request, sigma in zip(requests, noises, strict=True):
        if request.kind == "gaussian":
            gaussian += request.rounds / sigma**2
        else:
            sampled.append((sigma, request.sample_rate, request.steps))
    return quick_epsilon(math.sqrt(gaussian), tuple(sampled), delta, target)


def _solve(cost: Callable[[float], float], target: float, start: float, tolerance: float) -> float:
    """An x > 0 with cost(x) within `tolerance` of `target` (relative), for a cost that grows with x.

    Secant steps between logarithms, kept inside the bracket seen so far. After 40 tries the best x so far is
    returned: the caller checks.
    """
    low, high = 0.0, math.inf
    x, slope = start, 1.0
    best, best_miss = start, math.inf
    previous: tuple[float, float] | None = None
    for _ in range(40):
        value = cost(x)
        miss = math.log(value / target) if 0.0 < value < math.inf else math.copysign(math.inf, value - target)
        if abs(miss) < best_miss:
            best, best_miss = x, abs(miss)
        if best_miss <= tolerance:
            break
        low, high = (max(low, x), high) if miss < 0 else (low, min(high, x))
        if math.isfinite(miss):
            if previous is not None and previous[0] != x:
                rise = (miss - previous[1]) / math.log(x / previous[0])
                slope = min(max(rise, 0.2), 8.0)
            previous = (x, miss)
            step = x * math.exp(-min(max(miss / slope, -3.0), 3.0))
        else:
            step = x * (0.25 if miss > 0 else 4.0)
        if not low < step < high:
            step = math.sqrt(low * high) if low > 0.0 and math.isfinite(high) else (high / 4 or low * 4)
        x = step
    return best


def _round_up(value: float) -> float:
    """The value at six significant digits, not below it."""
    rounded = float(f"{value:.5e}")
    return rounded if rounded >= value else float(f"{value * (1 + 1e-5):.5e}")
