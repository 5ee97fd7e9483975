"""Against whom a guarantee holds: epsilon for one record of an honest client, coalition by coalition."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from privacy.accounting import compose_epsilon
from privacy.budget import BudgetPlan, PlannedRelease
from privacy.errors import BudgetError

__all__ = ["Roster", "Trust", "coalitions", "json_number"]

Trust = Literal["local", "distributed"]


@dataclass(frozen=True)
class Roster:
    """Who takes part, and how many of them must be honest; checked on construction."""

    trust: Trust
    clients: int
    honest_clients: int | None
    colluding: int
    contributors: int
    masked_honest: int | None

    def __post_init__(self) -> None:
        if self.trust not in ("local", "distributed"):
            raise BudgetError(f'trust must be "local" or "distributed", not {self.trust!r}')
        if self.clients < 1:
            raise BudgetError(f"clients must be at least 1, not {self.clients}")
        if not 1 <= self.contributors <= self.clients:
            right = f"from 1 to the {self.clients} clients"
            raise BudgetError(f"min_contributors must be {right}, not {self.contributors}")
        if self.masked_honest is not None and not 2 <= self.masked_honest <= self.contributors:
            right = f"from 2 to the {self.contributors} contributors of a sum"
            raise BudgetError(f"masked_honest must be {right}, not {self.masked_honest}")
        if self.trust == "local":
            return
        if self.honest_clients is None or self.honest_clients < 1:
            raise BudgetError(f"honest_clients must be at least 1, not {self.honest_clients}")
        if self.colluding < 1:
            raise BudgetError(f"colluding clients must be at least 1, not {self.colluding}")
        if self.contributors < self.honest_clients + self.colluding:
            needed = f"honest_clients + colluding = {self.honest_clients + self.colluding}"
            raise BudgetError(f"min_contributors must be at least {needed}, not {self.contributors}")

    @property
    def honest(self) -> int:
        """How many clients share the noise of a sum: 1 under local trust."""
        return self.honest_clients if self.trust == "distributed" else 1

    @property
    def fully_masked(self) -> bool:
        """Whether every sum that can be opened under masks has the noise of all that share it."""
        return self.masked_honest is not None and self.masked_honest >= self.honest


def coalitions(
    plan: BudgetPlan, claimed: float, roster: Roster, encrypted: frozenset[str]
) -> list[dict[str, object]]:
    """Epsilon for one record of an honest client, against those who might pool what they see."""
    sums = [r.event for r in plan.releases if r.name in encrypted]
    if roster.trust == "local":
        rows = [
            (
                "any coalition: server, key authority and all other clients together",
                claimed,
                "each client's own noise suffices; encryption and other parties' honesty are not relied upon",
            )
        ]
        if encrypted and roster.masked_honest is not None:
            rows += [_AUTHORITY_SEES_MASKS]
        elif encrypted:
            rows.append(
                (
                    "key authority alone",
                    compose_epsilon(sums, plan.delta),
                    "it sees the encrypted releases only, here counted as if it decrypted each client's",
                )
            )
        return [_row(*row, plan.delta) for row in rows]
    rows = [
        (
            f"server with any {roster.colluding} of the other clients",
            claimed,
            f"the guarantee of the run: {roster.honest} honest clients share the noise of every sum",
        )
    ]
    if encrypted and roster.masked_honest is not None:
        rows += _masked_rows(plan, claimed, roster, encrypted)
    elif encrypted:
        rows += _unmasked_rows(plan, claimed, roster, encrypted)
    rows.append(
        (
            "server with all other clients",
            _epsilon_of_shares(plan, 1, roster, encrypted),
            "they can subtract their own contributions: the client's own share of the noise remains",
        )
    )
    return [_row(*row, plan.delta) for row in rows]


_AUTHORITY_SEES_MASKS = (
    "key authority alone",
    0.0,
    "whatever it decrypts is under masks that clients agreed on with each other",
)


def _masked_rows(
    plan: BudgetPlan, claimed: float, roster: Roster, encrypted: frozenset[str]
) -> list[tuple[str, float, str]]:
    """Under pairwise masks the key authority may do as it likes, and side with the server."""
    honest = min(roster.masked_honest or 0, roster.honest)
    return [
        (
            f"server with key authority and any {roster.colluding} of the other clients",
            claimed if roster.fully_masked else _epsilon_of_shares(plan, honest, roster, encrypted),
            f"masks leave them nothing but sums over at least {roster.masked_honest} honest clients; the "
            f"guarantee rests on the noise of {roster.honest}",
        ),
        _AUTHORITY_SEES_MASKS,
        (
            f"server with key authority and more than {roster.colluding} of the other clients",
            _epsilon_of_shares(plan, 1, roster, encrypted),
            "they may hold enough shares of every mask: the client's own share of the noise remains",
        ),
    ]


def _unmasked_rows(
    plan: BudgetPlan, claimed: float, roster: Roster, encrypted: frozenset[str]
) -> list[tuple[str, float, str]]:
    sums = [r.event for r in plan.releases if r.name in encrypted]
    own = [_with_shares(r, 1, roster.honest).event for r in plan.releases if r.name in encrypted]
    return [
        (
            f"key authority, following the protocol, with any {roster.colluding} of the other clients",
            claimed,
            "it decrypts sums only; clients receive what the server derives from all releases",
        ),
        (
            "key authority alone, following the protocol",
            compose_epsilon(sums, plan.delta),
            "it sees the decrypted sums only",
        ),
        (
            "key authority alone, decrypting single contributions against the protocol",
            compose_epsilon(own, plan.delta),
            "one client's share of the noise is all that hides its encrypted releases",
        ),
        (
            "server with key authority",
            _epsilon_of_shares(plan, 1, roster, encrypted),
            "together they can decrypt single contributions: the client's own share of the noise remains",
        ),
    ]


def _epsilon_of_shares(plan: BudgetPlan, shares: int, roster: Roster, encrypted: frozenset[str]) -> float:
    """Epsilon where of the noise of each sum that many of the honest clients' shares are left."""
    left = [_with_shares(r, shares, roster.honest) if r.name in encrypted else r for r in plan.releases]
    return compose_epsilon([r.event for r in left], plan.delta)


def _with_shares(release: PlannedRelease, shares: int, honest: int) -> PlannedRelease:
    return replace(release, noise_multiplier=release.noise_multiplier / math.sqrt(honest / shares))


def _row(who: str, epsilon: float, why: str, delta: float) -> dict[str, object]:
    return {"who": who, "epsilon": json_number(epsilon), "delta": delta, "why": why}


def json_number(value: float) -> float | str:
    """A number for JSON, which has no infinity."""
    return "inf" if math.isinf(value) else value
