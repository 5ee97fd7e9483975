"""Mechanisms as frozen descriptions, and the epsilon that their composition costs.

The unit is one record of one client, and neighbours differ by adding or removing one record. Every noise
multiplier is the standard deviation of the Gaussian noise over the L2 sensitivity of what it hides.

Compositions of plain Gaussians are exact (Gaussian differential privacy). As soon as one mechanism samples
its records, the history is merged by (noise multiplier, sample rate) and the reported epsilon is the upper
bound of `privacy.prv` over both adjacencies. Nothing here ever returns an estimate from below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from numbers import Integral, Real

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from privacy.errors import BudgetError

__all__ = [
    "Event",
    "GaussianEvent",
    "SubsampledGaussianEvent",
    "compose_epsilon",
    "event_from_dict",
    "event_to_dict",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "group_epsilon",
    "merge",
]


@dataclass(frozen=True)
class GaussianEvent:
    """The Gaussian mechanism on all records, `count` times.

    Args:
        noise_multiplier: noise over L2 sensitivity, finite and at least 0; 0 means no noise and no privacy.
        count: number of releases, at least 1.

    Raises:
        BudgetError: a value is out of range.
    """

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        _set(self, "noise_multiplier", _noise(self.noise_multiplier))
        _set(self, "count", _positive("count", self.count))


@dataclass(frozen=True)
class SubsampledGaussianEvent:
    """`steps` Gaussian mechanisms, each on a fresh Poisson sample of the records, as in DP-SGD.

    Args:
        noise_multiplier: noise over L2 sensitivity, finite and at least 0; 0 means no noise and no privacy.
        sample_rate: probability with which each record enters a step, in (0, 1].
        steps: number of steps, at least 1; steps whose sample is empty count.

    Raises:
        BudgetError: a value is out of range.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        _set(self, "noise_multiplier", _noise(self.noise_multiplier))
        rate = self.sample_rate
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0.0 < rate <= 1.0:
            raise BudgetError(f"sample_rate must be in (0, 1], not {rate!r}")
        _set(self, "sample_rate", float(rate))
        _set(self, "steps", _positive("steps", self.steps))


Event = GaussianEvent | SubsampledGaussianEvent
"""Whatever the accountant understands; anything else is refused."""


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same history with equal mechanisms added up, in a canonical order.

    Equal means equal (noise multiplier, sample rate); sampling at rate 1 is the plain Gaussian. The result
    composes to what the input composes to, since composition does not depend on order.

    Raises:
        BudgetError: an element is not an `Event`.
    """
    totals: dict[tuple[float, float], int] = {}
    for event in events:
        if isinstance(event, GaussianEvent):
            key, times = (1.0, event.noise_multiplier), event.count
        elif isinstance(event, SubsampledGaussianEvent):
            key, times = (event.sample_rate, event.noise_multiplier), event.steps
        else:
            raise BudgetError(f"no accounting is known for {type(event).__name__}")
        totals[key] = totals.get(key, 0) + times
    return tuple(
        GaussianEvent(sigma, times) if rate == 1.0 else SubsampledGaussianEvent(sigma, rate, times)
        for (rate, sigma), times in sorted(totals.items(), reverse=True)
    )


def compose_epsilon(events: Iterable[Event], delta: float) -> float:
    """Upper bound on epsilon at `delta` for the joint release of all `events`, adaptively composed.

    Plain Gaussians form one Gaussian with mu^2 = sum of count / noise_multiplier^2, whose epsilon is exact
    (Dong, Roth and Su, JRSS-B 2022, Corollary 3.3; Balle and Wang, ICML 2018, Theorem 8). Otherwise the bound
    is that of `privacy.prv.upper_epsilon`. One call covers the whole history of a client; epsilons of parts
    must not be added up instead.

    Args:
        events: the history; may be empty.
        delta: in (0, 1).

    Returns:
        epsilon >= 0; 0.0 without events, `math.inf` if any of them has no noise.

    Raises:
        BudgetError: `delta` is out of range or an element is not an `Event`.
    """
    return _compose(merge(events), _delta(delta))


def group_epsilon(events: Iterable[Event], delta: float, records: int) -> float:
    """Upper bound on epsilon at `delta` for a person to whom `records` records of one client belong.

    Neighbours add or remove all of them at once. A step that samples at rate q meets Binomial(records, q) of
    them; its worst case is a mixture of Gaussians with these sensitivities (Choquette-Choo et al., ICLR 2024,
    arXiv 2310.15526, Section 4), composed in both adjacencies with pessimistic privacy-loss distributions
    (Doroshenko et al., PETS 2022). A plain Gaussian has `records` times its sensitivity. This is far
    tighter than the generic records * epsilon at a larger delta.

    Args:
        events: the history; may be empty.
        delta: in (0, 1).
        records: at least 1; 1 is `compose_epsilon`.

    Returns:
        epsilon >= 0; `math.inf` if any event has no noise, or where the numbers grow too large to compute
        with.

    Raises:
        BudgetError: `delta` or `records` is out of range, or an element is not an `Event`.
    """
    size = _positive("records", records)
    history = merge(events)
    return _compose(history, _delta(delta)) if size == 1 else _compose_group(history, _delta(delta), size)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta at which a mu-GDP mechanism is (epsilon, delta)-DP.

    delta = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu) (Balle and Wang, ICML 2018,
    Theorem 8), evaluated so that nothing overflows and small values keep their digits.

    Args:
        mu: sensitivity over noise, at least 0.
        epsilon: at least 0; `math.inf` gives 0.

    Raises:
        BudgetError: an argument is negative or not a number.
    """
    if not mu >= 0.0 or not epsilon >= 0.0:
        raise BudgetError(f"mu and epsilon must be at least 0, not {mu!r} and {epsilon!r}")
    if mu == 0.0 or math.isinf(epsilon):
        return 0.0
    if math.isinf(mu):
        return 1.0
    upper = mu / 2 - epsilon / mu
    ratio = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)) - float(log_ndtr(upper))
    return max(0.0, -float(ndtr(upper)) * math.expm1(min(ratio, 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon at which a mu-GDP mechanism is (epsilon, delta)-DP: the inverse of `gaussian_delta`.

    Args:
        mu: sensitivity over noise, at least 0; `math.inf` gives `math.inf`.
        delta: in (0, 1).

    Raises:
        BudgetError: an argument is out of range.
    """
    target = _below(_delta(delta))
    if gaussian_delta(mu, 0.0) <= target:
        return 0.0
    if math.isinf(mu) or math.isinf(mu * mu):
        return math.inf
    # Phi(mu/2 - epsilon/mu) bounds delta, and is below exp(-x^2/2) at x = epsilon/mu - mu/2
    high = mu * (mu / 2 + math.sqrt(-2 * math.log(target))) + 1.0
    while gaussian_delta(mu, high) > target:  # rounding at a huge mu
        high *= 1.0 + 1e-6
    root = brentq(lambda e: gaussian_delta(mu, e) - target, 0.0, high, xtol=1e-13, rtol=1e-13, maxiter=500)
    return root * (1 + 1e-12) + 1e-12  # the root's own tolerance, so that the result stays a bound


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Largest mu whose mu-GDP mechanism is (epsilon, delta)-DP.

    Args:
        epsilon: at least 0; `math.inf` gives `math.inf`.
        delta: in (0, 1).

    Raises:
        BudgetError: an argument is out of range.
    """
    target = _below(_delta(delta))
    if not epsilon >= 0.0:
        raise BudgetError(f"epsilon must be at least 0, not {epsilon!r}")
    if math.isinf(epsilon):
        return math.inf
    high = 1.0
    while gaussian_delta(high, epsilon) <= target:
        high *= 2.0
    root = brentq(lambda mu: gaussian_delta(mu, epsilon) - target, 0.0, high, xtol=1e-15, rtol=1e-13)
    return root * (1 - 1e-12)


def event_to_dict(event: Event) -> dict[str, object]:
    """The event as plain JSON values, with its kind; see `event_from_dict`."""
    if isinstance(event, GaussianEvent):
        return {"kind": "gaussian", **asdict(event)}
    if isinstance(event, SubsampledGaussianEvent):
        return {"kind": "subsampled_gaussian", **asdict(event)}
    raise BudgetError(f"no accounting is known for {type(event).__name__}")


def event_from_dict(data: Mapping[str, object]) -> Event:
    """The event that `event_to_dict` wrote.

    Raises:
        BudgetError: the kind is unknown, a field is missing or unknown, or a value is out of range.
    """
    kinds = {"gaussian": GaussianEvent, "subsampled_gaussian": SubsampledGaussianEvent}
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise BudgetError(f"an accounted event must be of kind {' or '.join(kinds)}")
    try:
        return kinds[kind](**{name: value for name, value in data.items() if name != "kind"})
    except TypeError:
        fields = ", ".join(sorted(map(str, data)))
        raise BudgetError(f"the fields of a {kind} event do not fit: {fields}") from None


def _gaussian_part(history: tuple[Event, ...]) -> float:
    """mu of all plain Gaussians of a merged history together."""
    return math.sqrt(sum(e.count / e.noise_multiplier**2 for e in history if isinstance(e, GaussianEvent)))


def _split(history: tuple[Event, ...]) -> tuple[float, tuple[tuple[float, float, int], ...]]:
    """mu of the plain Gaussians, and (noise multiplier, sample rate, steps) of the rest."""
    rest = (e for e in history if isinstance(e, SubsampledGaussianEvent))
    return _gaussian_part(history), tuple((e.noise_multiplier, e.sample_rate, e.steps) for e in rest)


@lru_cache(maxsize=256)
def _compose(history: tuple[Event, ...], delta: float) -> float:
    if any(_too_loud(event) for event in history):
        return math.inf
    mu, sampled = _split(history)
    if not sampled:
        return gaussian_epsilon(mu, delta)
    from privacy.prv import upper_epsilon

    return upper_epsilon(mu, sampled, delta)


@lru_cache(maxsize=256)
def _compose_group(history: tuple[Event, ...], delta: float, records: int) -> float:
    if any(_too_loud(event) for event in history):
        return math.inf
    mu, sampled = _split(history)
    if not sampled:
        return gaussian_epsilon(records * mu, delta)
    from privacy.pld import group_upper_epsilon

    return group_upper_epsilon(mu, sampled, delta, records)


def _too_loud(event: Event) -> bool:
    """No noise, or so little that its square vanishes in floating point: no bound is claimed."""
    return event.noise_multiplier < 1e-100


def _delta(delta: object) -> float:
    if isinstance(delta, bool) or not isinstance(delta, Real) or not 0.0 < delta < 1.0:
        raise BudgetError(f"delta must lie strictly between 0 and 1, not {delta!r}")
    return float(delta)


def _below(delta: float) -> float:
    """Delta less the rounding error of `gaussian_delta`, so that its inverses err on the safe side."""
    return max(delta * (1 - 1e-12) - 1e-15, delta / 2)


def _noise(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= value < math.inf:
        raise BudgetError(f"noise_multiplier must be finite and at least 0, not {value!r}")
    return float(value)


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BudgetError(f"{name} must be a whole number of at least 1, not {value!r}")
    return int(value)


def _set(event: object, name: str, value: object) -> None:
    object.__setattr__(event, name, value)  # normalises numpy scalars of a frozen dataclass
