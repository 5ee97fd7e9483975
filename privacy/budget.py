"""One (epsilon, delta) split over named releases: how much noise each of them needs.

Shares are shares of mu^2, the currency in which Gaussian mechanisms add up exactly. A plan fixes every
parameter of every mechanism before anything is spent, and what it claims is the composition of all of them,
whether or not a run gets that far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Literal

from privacy.accounting import (
    Event,
    GaussianEvent,
    SubsampledGaussianEvent,
    compose_epsilon,
    gaussian_mu,
)
from privacy.errors import BudgetError

__all__ = ["BudgetPlan", "PlannedRelease", "ReleaseRequest", "plan_budget", "verify_plan"]

Kind = Literal["gaussian", "dpsgd"]

_SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ReleaseRequest:
    """One release that a run asks for, before its noise is decided.

    Args:
        name: unique among the releases of a plan.
        share: of mu^2, in (0, 1].
        kind: ``"gaussian"`` for noise on a clipped sum of all records, ``"dpsgd"`` for DP-SGD.
        rounds: how many times it is released, at least 1.
        sample_rate: of DP-SGD, in (0, 1]; ``None`` for a Gaussian.
        steps: of DP-SGD, over all rounds together and a multiple of `rounds`; ``None`` for a Gaussian.

    Raises:
        BudgetError: a value is out of range or does not belong to the kind.
    """

    name: str
    share: float
    kind: Kind
    rounds: int = 1
    sample_rate: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BudgetError(f"a release needs a name, not {self.name!r}")
        _number(f"share of {self.name}", self.share, "in (0, 1]", lambda v: 0.0 < v <= 1.0 + _SHARE_TOLERANCE)
        _whole(f"rounds of {self.name}", self.rounds)
        if self.kind == "gaussian":
            if self.sample_rate is not None or self.steps is not None:
                raise BudgetError(f"{self.name} is a plain Gaussian: it takes no sample_rate and no steps")
        elif self.kind == "dpsgd":
            name = f"sample_rate of {self.name}"
            _number(name, self.sample_rate, "in (0, 1]", lambda v: 0.0 < v <= 1.0)
            _whole(f"steps of {self.name}", self.steps)
            if self.steps % self.rounds:
                raise BudgetError(f"steps of {self.name} must be a multiple of its {self.rounds} rounds")
        else:
            raise BudgetError(f'kind of {self.name} must be "gaussian" or "dpsgd", not {self.kind!r}')


@dataclass(frozen=True)
class PlannedRelease(ReleaseRequest):
    """One release of a plan, with its noise.

    Args:
        noise_multiplier: standard deviation over L2 sensitivity: of one round for a Gaussian, of one step for
            DP-SGD; 0 only where the plan promises nothing. Where the noise of a sum is shared by several
            clients it is that of the sum.
    """

    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = f"noise_multiplier of {self.name}"
        _number(name, self.noise_multiplier, "finite and at least 0", lambda v: 0.0 <= v < math.inf)

    @property
    def event(self) -> Event:
        """All rounds of the release, for the accountant."""
        return self._event(self.rounds)

    @property
    def round_event(self) -> Event:
        """One round of the release; `rounds` of them make up `event`."""
        return self._event(1)

    @property
    def steps_per_round(self) -> int | None:
        """Steps of DP-SGD in one round; ``None`` for a Gaussian."""
        return None if self.steps is None else self.steps // self.rounds

    def _event(self, rounds: int) -> Event:
        if self.kind == "gaussian":
            return GaussianEvent(self.noise_multiplier, rounds)
        steps = self.steps // self.rounds * rounds
        return SubsampledGaussianEvent(self.noise_multiplier, self.sample_rate, steps)


@dataclass(frozen=True)
class BudgetPlan:
    """All releases of one client in one run, fixed at enrolment.

    Args:
        target_epsilon: what was asked for; `math.inf` for a run without privacy.
        delta: in (0, 1).
        epsilon: what the releases compose to at `delta`, as an upper bound. It is the claim: a run that stops
            early does not lower it. A plan that comes from elsewhere is checked with `verify_plan`.
        releases: in the order of the request, names unique.
    """

    target_epsilon: float
    delta: float
    epsilon: float
    releases: tuple[PlannedRelease, ...]

    def __post_init__(self) -> None:
        _number("target epsilon", self.target_epsilon, "above 0, or inf", lambda v: v > 0.0)
        _number("epsilon of the plan", self.epsilon, "at least 0, or inf", lambda v: v >= 0.0)
        _number("delta", self.delta, "strictly between 0 and 1", lambda v: 0.0 < v < 1.0)
        _check_shares(self.releases)

    @property
    def events(self) -> tuple[Event, ...]:
        """Every mechanism of the plan, for the accountant."""
        return tuple(release.event for release in self.releases)

    def release(self, name: str) -> PlannedRelease:
        """The release of that name.

        Raises:
            BudgetError: the plan has none.
        """
        for release in self.releases:
            if release.name == name:
                return release
        names = ", ".join(release.name for release in self.releases)
        raise BudgetError(f"the plan has no release {name!r}; it has {names}")

    def to_dict(self) -> dict[str, object]:
        """The plan as plain JSON values; infinite epsilons become ``"inf"``."""
        return {
            "target_epsilon": _to_json(self.target_epsilon),
            "delta": self.delta,
            "epsilon": _to_json(self.epsilon),
            "releases": [asdict(release) for release in self.releases],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> BudgetPlan:
        """The plan that `to_dict` wrote; its form is checked here, its arithmetic by `verify_plan`.

        Raises:
            BudgetError: a field is missing, unknown or out of range.
        """
        values = _fields_of(cls, data, "a budget plan")
        if not isinstance(values["releases"], list | tuple):
            raise BudgetError("releases of a budget plan must be a list")
        releases = [_fields_of(PlannedRelease, row, "a planned release") for row in values["releases"]]
        return cls(
            target_epsilon=_from_json(values["target_epsilon"]),
            delta=values["delta"],
            epsilon=_from_json(values["epsilon"]),
            releases=tuple(PlannedRelease(**row) for row in releases),
        )


def plan_budget(target_epsilon: float, delta: float, requests: Iterable[ReleaseRequest]) -> BudgetPlan:
    """Noise for every release, such that all of them together cost just under `target_epsilon`.

    With mu the Gaussian-DP parameter of (target_epsilon, delta), a Gaussian release of share s over R rounds
    starts from noise sqrt(R) / (mu sqrt(s)), and DP-SGD from the noise at which it alone costs, at `delta`,
    the epsilon of a Gaussian mechanism of parameter mu sqrt(s). One common factor on mu then brings the
    composition of all releases into [0.99, 1.00] of the target; with Gaussians only the factor is 1. Noise
    multipliers are rounded up to six digits, and the claimed epsilon is that of the rounded ones.

    Args:
        target_epsilon: above 0; `math.inf` plans releases without noise.
        delta: strictly between 0 and 1.
        requests: at least one; names unique, shares summing to 1 within 1e-6.

    Returns:
        the plan; its `epsilon` is `compose_epsilon` of its events.

    Raises:
        BudgetError: an argument is out of range, or no noise meets the target.
    """
    wanted = tuple(requests)
    _number("epsilon", target_epsilon, "above 0, or inf", lambda v: v > 0.0)
    _number("delta", delta, "strictly between 0 and 1", lambda v: 0.0 < v < 1.0)
    _check_shares(wanted)
    if math.isinf(target_epsilon):
        planned = tuple(PlannedRelease(**asdict(request)) for request in wanted)
        return BudgetPlan(math.inf, float(delta), math.inf, planned)
    from privacy.calibration import calibrate

    noise = calibrate(wanted, float(target_epsilon), float(delta), gaussian_mu(target_epsilon, delta))
    planned = tuple(
        PlannedRelease(**asdict(request), noise_multiplier=sigma)
        for request, sigma in zip(wanted, noise, strict=True)
    )
    spent = compose_epsilon([release.event for release in planned], delta)
    return BudgetPlan(float(target_epsilon), float(delta), spent, planned)


def verify_plan(plan: BudgetPlan) -> None:
    """Recompute what a plan claims; for whoever receives a plan and pays for it.

    Raises:
        BudgetError: the releases compose to more than the claimed epsilon, or the claim exceeds the target.
    """
    spent = compose_epsilon(plan.events, plan.delta)
    if spent > plan.epsilon * (1 + 1e-9):
        raise BudgetError(f"the plan claims epsilon {plan.epsilon:.6g} but composes to {spent:.6g}")
    if plan.epsilon > plan.target_epsilon * (1 + 1e-9):
        asked = f"{plan.target_epsilon:g}"
        raise BudgetError(f"the plan costs epsilon {plan.epsilon:.6g}, above its target {asked}")


def _check_shares(releases: tuple[ReleaseRequest, ...]) -> None:
    if not releases:
        raise BudgetError("a plan needs at least one release")
    names = [release.name for release in releases]
    for name in names:
        if names.count(name) > 1:
            raise BudgetError(f"release {name!r} is planned twice: give each release a name of its own")
    total = math.fsum(release.share for release in releases)
    if abs(total - 1.0) > _SHARE_TOLERANCE:
        listed = ", ".join(f"{release.name} {release.share:g}" for release in releases)
        raise BudgetError(f"shares must sum to 1, not {total:.6g} ({listed})")


def _fields_of(kind: type, data: object, what: str) -> dict[str, object]:
    if not isinstance(data, Mapping):
        raise BudgetError(f"{what} must be an object of named fields")
    expected = [field.name for field in fields(kind)]
    wrong = sorted(set(map(str, data)) ^ set(expected))
    if wrong:
        raise BudgetError(f"the fields of {what} must be {', '.join(expected)}; check {', '.join(wrong)}")
    return dict(data)


def _number(name: str, value: object, right: str, holds) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(value):
        raise BudgetError(f"{name} must be {right}, not {value!r}")


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BudgetError(f"{name} must be a whole number of at least 1, not {value!r}")


def _to_json(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


def _from_json(value: object) -> object:
    return math.inf if value == "inf" else value
