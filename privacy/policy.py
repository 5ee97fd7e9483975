"""What one client allows: caps on its budget, the releases it makes, the parties it trusts."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from privacy.errors import BudgetError
from privacy.storage import write_durably

if TYPE_CHECKING:
    from privacy.budget import BudgetPlan

Trust = Literal["local", "distributed"]
Visibility = Literal["private", "public"]

SCHEMA_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(kind: str, name: object) -> str:
    """A name that is safe as a part of a path and in a log; raises BudgetError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BudgetError(
            f"{kind} {str(name)[:40]!r}: must be 1 to 100 of letters, digits, '.', '_', '-', no mark first"
        )
    return name


@dataclass(frozen=True)
class ClientPolicy:
    """The rules that a client fixes for one population, before it sees any plan.

    Attributes:
        population: names every version of the data that may hold the same people; budgets add up under it.
        max_epsilon_per_run, max_epsilon_lifetime: > 0, may be infinite. Across runs (epsilon, delta) add.
        max_delta_lifetime: in (0, 1].
        allowed_releases: names of the releases that this client makes.
        min_contributors: smallest number of clients in a sum that this client contributes to, >= 1.
        roster: client id -> Ed25519 public key (64 hex digits) of the clients that may contribute to a sum.
        authority: Ed25519 public key (64 hex digits) of the key authority; None where there is none.
        allow_insecure_noise: whether runs may derive noise from a seed, which voids their guarantee.
        visibility: "private", or "public" where anybody may see statistics of the records. No plan may call
            public what is private here: it would take its constants from the records themselves.
        trust: the weakest trust model that this client takes part under, "local" or "distributed".
        colluding_clients: fewest colluders that shared noise must withstand, >= 1.
    """

    population: str
    max_epsilon_per_run: float = math.inf
    max_epsilon_lifetime: float = math.inf
    max_delta_lifetime: float = 1.0
    allowed_releases: frozenset[str] = frozenset()
    min_contributors: int = 1
    roster: Mapping[str, str] = field(default_factory=dict)
    authority: str | None = None
    allow_insecure_noise: bool = False
    visibility: Visibility = "private"
    trust: Trust = "local"
    colluding_clients: int = 1

    def __post_init__(self) -> None:
        check_name("policy field population:", self.population)
        for name in ("max_epsilon_per_run", "max_epsilon_lifetime"):
            value = _number(name, getattr(self, name))
            if not value > 0:
                raise BudgetError(f"policy field {name}: must be above 0 (inf for no cap), not {value}")
            object.__setattr__(self, name, value)
        delta = _number("max_delta_lifetime", self.max_delta_lifetime)
        if not 0 < delta <= 1:
            raise BudgetError(f"policy field max_delta_lifetime: must be in (0, 1], not {delta}")
        object.__setattr__(self, "max_delta_lifetime", delta)
        object.__setattr__(self, "allowed_releases", frozenset(self.allowed_releases))
        for release in self.allowed_releases:
            check_name("policy field allowed_releases:", release)
        for name in ("min_contributors", "colluding_clients"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise BudgetError(f"policy field {name}: must be a whole number")
            if value < 1:
                raise BudgetError(f"policy field {name}: must be above 0, not {value}")
        for name, known in (("visibility", get_args(Visibility)), ("trust", get_args(Trust))):
            if getattr(self, name) not in known:
                raise BudgetError(f"policy field {name}: must be {known[0]!r} or {known[1]!r}")
        if not isinstance(self.allow_insecure_noise, bool):
            raise BudgetError("policy field allow_insecure_noise: must be true or false")
        roster = {}
        for client, key in self.roster.items():
            roster[check_name("policy field roster:", client)] = _key(f"roster.{client}", key)
        if len(set(roster.values())) != len(roster):
            raise BudgetError("policy field roster: two clients have one public key; each needs its own")
        object.__setattr__(self, "roster", MappingProxyType(roster))
        if self.authority is not None:
            object.__setattr__(self, "authority", _key("authority", self.authority))
            if self.authority in roster.values():
                raise BudgetError("policy field authority: is a client's key; it must be a party of its own")

    @property
    def roster_keys(self) -> dict[str, bytes]:
        """Client id -> 32-byte public key."""
        return {client: bytes.fromhex(key) for client, key in self.roster.items()}

    @property
    def authority_key(self) -> bytes | None:
        """The 32-byte public key of the key authority, if one is pinned."""
        return None if self.authority is None else bytes.fromhex(self.authority)

    def check_plan(
        self,
        plan: BudgetPlan,
        trust: Trust,
        min_contributors: int,
        *,
        honest_clients: int | None = None,
        colluding_clients: int = 1,
        insecure_noise: bool = False,
    ) -> None:
        """Accept a plan, or raise BudgetError naming the rule it breaks; nothing is spent by asking.

        The plan's epsilon is not believed: it is composed again from the plan's mechanisms. What earlier runs
        have spent is the ledger's to check.

        Args:
            plan: the mechanisms of the whole run with the (epsilon, delta) claimed for them.
            trust: "local" (own noise suffices) or "distributed" (noise of a sum is shared).
            min_contributors: fewest clients that a decrypted sum of this run will have.
            honest_clients, colluding_clients: h, c >= 1 of distributed noise; h + c <= min_contributors.
            insecure_noise: whether the run derives noise from a seed.
        """
        self._check_cost(plan)
        for release in plan.releases:
            if release.name not in self.allowed_releases:
                allowed = ", ".join(sorted(self.allowed_releases)) or "none"
                raise BudgetError(f"release {release.name!r}: the policy allows only: {allowed}")
        if min_contributors < self.min_contributors:
            raise BudgetError(
                f"min_contributors {min_contributors}: the policy asks for at least {self.min_contributors}"
            )
        if insecure_noise and not self.allow_insecure_noise:
            raise BudgetError("insecure_reproducible_noise: the policy does not allow noise from a seed")
        if trust == "distributed":
            if self.trust != "distributed":
                raise BudgetError(
                    "trust 'distributed': the policy takes part under 'local' only, where own noise suffices"
                )
            self._check_distributed(min_contributors, honest_clients, colluding_clients)
        elif trust != "local":
            raise BudgetError(f"trust {trust!r}: must be 'local' or 'distributed'")

    def _check_cost(self, plan: BudgetPlan) -> None:
        from privacy.budget import verify_plan

        if not plan.epsilon <= self.max_epsilon_per_run:
            cap = f"{self.max_epsilon_per_run:g}"
            raise BudgetError(f"epsilon {plan.epsilon:g}: above the policy's cap of {cap} for one run")
        verify_plan(plan)

    def _check_distributed(self, contributors: int, honest: int | None, colluding: int) -> None:
        if honest is None or honest < 1 or colluding < 1:
            raise BudgetError(
                f"honest_clients {honest}, colluding_clients {colluding}: distributed noise needs 1 or more"
            )
        if colluding < self.colluding_clients:
            raise BudgetError(
                f"colluding_clients {colluding}: the policy asks for at least {self.colluding_clients}"
            )
        if contributors < honest + colluding:
            raise BudgetError(
                f"min_contributors {contributors}: distributed noise needs at least honest_clients + "
                f"colluding_clients = {honest + colluding}"
            )
        if len(self.roster) < contributors or self.authority is None:
            authority = "no authority" if self.authority is None else "an authority"
            raise BudgetError(
                f"trust 'distributed': the policy must pin an authority and at least {contributors} clients; "
                f"it pins {authority} and {len(self.roster)}"
            )

    def save(self, path: str | Path) -> None:
        """Write the policy as TOML (mode 0600, atomic)."""
        lines = [f"schema_version = {SCHEMA_VERSION}", f"population = {_quote(self.population)}"]
        for name in ("max_epsilon_per_run", "max_epsilon_lifetime", "max_delta_lifetime"):
            lines.append(f"{name} = {float(getattr(self, name))!r}")
        allowed = ", ".join(_quote(name) for name in sorted(self.allowed_releases))
        lines.append(f"allowed_releases = [{allowed}]")
        lines.append(f"min_contributors = {self.min_contributors}")
        if self.authority is not None:
            lines.append(f"authority = {_quote(self.authority)}")
        lines.append(f"allow_insecure_noise = {str(self.allow_insecure_noise).lower()}")
        lines += [f"{name} = {_quote(getattr(self, name))}" for name in ("visibility", "trust")]
        lines.append(f"colluding_clients = {self.colluding_clients}")
        lines += ["", "[roster]"]
        lines += [f"{_quote(client)} = {_quote(key)}" for client, key in sorted(self.roster.items())]
        write_durably(Path(path), ("\n".join(lines) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> ClientPolicy:
        """Read a policy from TOML; raises BudgetError naming the file and what is wrong in it."""
        try:
            data: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BudgetError(f"policy {path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BudgetError(f"policy {path}: not valid TOML ({error})") from error
        version = data.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise BudgetError(f"policy {path}: schema_version must be {SCHEMA_VERSION}, not {version!r}")
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise BudgetError(f"policy {path}: unknown field {unknown[0]!r}")
        # A rule that is missing from a file is a mistake, not a cap without limit.
        missing = sorted(set(cls.__dataclass_fields__) - {"authority", "roster"} - set(data))
        if missing:
            raise BudgetError(f"policy {path}: field {missing[0]!r} is missing")
        if not isinstance(data["allowed_releases"], list) or not isinstance(data.get("roster", {}), dict):
            raise BudgetError(f"policy {path}: allowed_releases must be a list and roster a table")
        try:
            return cls(**data)
        except BudgetError as error:
            raise BudgetError(f"policy {path}: {error}") from error


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BudgetError(f"policy field {name}: must be a number, not {value!r}")
    return float(value)


def _key(name: str, value: object) -> str:
    try:
        key = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BudgetError(f"policy field {name}: must be a public key of 64 hexadecimal digits")
    return key.hex()


def _quote(text: str) -> str:
    return json.dumps(text)  # names and keys are plain ASCII: a JSON string is a TOML string
