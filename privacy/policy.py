"""What one client allows: caps on its budget, what it releases, trains and on which data, whom it trusts."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from privacy.errors import BudgetError, PolicyError
from privacy.storage import write_durably

if TYPE_CHECKING:
    from privacy.budget import BudgetPlan

Trust = Literal["local", "distributed"]
Visibility = Literal["private", "public"]

SCHEMA_VERSION = 3
ANY = "*"
"""In place of names, and alone: all of them."""
_LISTS = ("allowed_releases", "allowed_architectures", "allowed_datasets")
_UNLIMITED = ("allowed_architectures", "allowed_datasets")
_BEFORE: Mapping[int, Mapping[str, Any]] = {
    1: {**dict.fromkeys(_UNLIMITED, [ANY]), "pairwise_masks": False},
    2: {"pairwise_masks": False},
}
"""What files of an older version do not say, and mean by it."""
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
        allowed_architectures: names of the networks that this client trains; {"*"} for any.
        allowed_datasets: names of the data sets that this client answers about ("folder" for its own images);
            {"*"} for any.
        pairwise_masks: whether what this client contributes must be under masks between clients, which server
            and key authority together cannot lift.
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
    allowed_architectures: frozenset[str] = frozenset({ANY})
    allowed_datasets: frozenset[str] = frozenset({ANY})
    pairwise_masks: bool = False

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
        for name in _LISTS:
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        for name in ("min_contributors", "colluding_clients"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise BudgetError(f"policy field {name}: must be a whole number")
            if value < 1:
                raise BudgetError(f"policy field {name}: must be above 0, not {value}")
        for name, known in (("visibility", get_args(Visibility)), ("trust", get_args(Trust))):
            if getattr(self, name) not in known:
                raise BudgetError(f"policy field {name}: must be {known[0]!r} or {known[1]!r}")
        for name in ("allow_insecure_noise", "pairwise_masks"):
            if not isinstance(getattr(self, name), bool):
                raise BudgetError(f"policy field {name}: must be true or false")
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
        """Accept a plan, or raise naming the rule it breaks; nothing is spent by asking.

        The plan's epsilon is not believed: it is composed again from the plan's mechanisms. What earlier runs
        have spent is the ledger's to check.

        Args:
            plan: the mechanisms of the whole run with the (epsilon, delta) claimed for them.
            trust: "local" (own noise suffices) or "distributed" (noise of a sum is shared).
            min_contributors: fewest clients that a decrypted sum of this run will have.
            honest_clients, colluding_clients: h, c >= 1 of distributed noise; h + c <= min_contributors.
            insecure_noise: whether the run derives noise from a seed.

        Raises:
            PolicyError: a rule is broken. BudgetError: the plan costs more than it claims.
        """
        from privacy.budget import verify_plan

        self.check_rules(
            plan,
            trust,
            min_contributors,
            honest_clients=honest_clients,
            colluding_clients=colluding_clients,
            insecure_noise=insecure_noise,
        )
        verify_plan(plan)

    def check_rules(
        self,
        plan: BudgetPlan,
        trust: Trust,
        min_contributors: int,
        *,
        honest_clients: int | None = None,
        colluding_clients: int = 1,
        insecure_noise: bool = False,
    ) -> None:
        """As `check_plan`, of a plan whose claim was composed before: cheap enough for every request."""
        if not plan.epsilon <= self.max_epsilon_per_run:
            cap = f"{self.max_epsilon_per_run:g}"
            raise PolicyError(f"epsilon {plan.epsilon:g}: above the policy's cap of {cap} for one run")
        for release in plan.releases:
            self._check_listed("release", release.name, self.allowed_releases)
        if min_contributors < self.min_contributors:
            raise PolicyError(
                f"min_contributors {min_contributors}: the policy asks for at least {self.min_contributors}"
            )
        if insecure_noise and not self.allow_insecure_noise:
            raise PolicyError("insecure_reproducible_noise: the policy does not allow noise from a seed")
        if trust == "distributed":
            if self.trust != "distributed":
                raise PolicyError(
                    "trust 'distributed': the policy takes part under 'local' only, where own noise suffices"
                )
            self._check_distributed(min_contributors, honest_clients, colluding_clients)
        elif trust != "local":
            raise PolicyError(f"trust {trust!r}: must be 'local' or 'distributed'")

    def check_sums(self, encrypted: bool, masked: bool) -> None:
        """Accept how a run adds up contributions, if it adds up any, or raise PolicyError."""
        if encrypted and self.pairwise_masks and not masked:
            raise PolicyError("pairwise_masks false: the policy asks for masks between clients in every sum")

    def check_use(self, dataset: str, architectures: Iterable[str]) -> None:
        """Accept what a run trains at this client, and on which data, or raise PolicyError."""
        self._check_listed("data set", dataset, self.allowed_datasets)
        for architecture in architectures:
            self._check_listed("architecture", architecture, self.allowed_architectures)

    def _check_listed(self, kind: str, name: str, allowed: frozenset[str]) -> None:
        if name not in allowed and allowed != {ANY}:
            listed = ", ".join(sorted(allowed)) or "none"
            raise PolicyError(f"{kind} {name!r}: the policy allows only: {listed}")

    def _check_distributed(self, contributors: int, honest: int | None, colluding: int) -> None:
        if honest is None or honest < 1 or colluding < 1:
            raise PolicyError(
                f"honest_clients {honest}, colluding_clients {colluding}: distributed noise needs 1 or more"
            )
        if colluding < self.colluding_clients:
            raise PolicyError(
                f"colluding_clients {colluding}: the policy asks for at least {self.colluding_clients}"
            )
        if contributors < honest + colluding:
            raise PolicyError(
                f"min_contributors {contributors}: distributed noise needs at least honest_clients + "
                f"colluding_clients = {honest + colluding}"
            )
        if len(self.roster) < contributors or self.authority is None:
            authority = "no authority" if self.authority is None else "an authority"
            raise PolicyError(
                f"trust 'distributed': the policy must pin an authority and at least {contributors} clients; "
                f"it pins {authority} and {len(self.roster)}"
            )

    def save(self, path: str | Path) -> None:
        """Write the policy as TOML (mode 0600, atomic)."""
        lines = [f"schema_version = {SCHEMA_VERSION}", f"population = {_quote(self.population)}"]
        for name in ("max_epsilon_per_run", "max_epsilon_lifetime", "max_delta_lifetime"):
            lines.append(f"{name} = {float(getattr(self, name))!r}")
        for name in _LISTS:
            listed = ", ".join(_quote(item) for item in sorted(getattr(self, name)))
            lines.append(f"{name} = [{listed}]")
        lines.append(f"min_contributors = {self.min_contributors}")
        if self.authority is not None:
            lines.append(f"authority = {_quote(self.authority)}")
        for name in ("allow_insecure_noise", "pairwise_masks"):
            lines.append(f"{name} = {str(getattr(self, name)).lower()}")
        lines += [f"{name} = {_quote(getattr(self, name))}" for name in ("visibility", "trust")]
        lines.append(f"colluding_clients = {self.colluding_clients}")
        lines += ["", "[roster]"]
        lines += [f"{_quote(client)} = {_quote(key)}" for client, key in sorted(self.roster.items())]
        write_durably(Path(path), ("\n".join(lines) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> ClientPolicy:
        """Read a policy from TOML; raises PolicyError naming the file and what is wrong in it.

        A file of version 1 knows no limit on architectures and data sets: it allows any. Before version 3 no
        file asks for pairwise masks.
        """
        try:
            data: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PolicyError(f"policy {path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PolicyError(f"policy {path}: not valid TOML ({error})") from error
        version = data.pop("schema_version", None)
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise PolicyError(
                f"policy {path}: schema_version must be {SCHEMA_VERSION}, or less for an older file, "
                f"not {version!r}"
            )
        meant = _BEFORE.get(version, {})
        known = set(cls.__dataclass_fields__) - set(meant)
        unknown = sorted(set(data) - known)
        if unknown:
            raise PolicyError(f"policy {path}: unknown field {unknown[0]!r}")
        # A rule that is missing from a file is a mistake, not a cap without limit.
        missing = sorted(known - {"authority", "roster"} - set(data))
        if missing:
            raise PolicyError(f"policy {path}: field {missing[0]!r} is missing")
        data |= meant
        if not isinstance(data.get("roster", {}), dict):
            raise PolicyError(f"policy {path}: roster must be a table")
        try:
            return cls(**data)
        except BudgetError as error:
            raise PolicyError(f"policy {path}: {error}") from error


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BudgetError(f"policy field {name}: must be a number, not {value!r}")
    return float(value)


def _names(field: str, given: object) -> frozenset[str]:
    """The names of a list, each safe in a path and a log; "*" in those that may be without a limit."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise BudgetError(f"policy field {field}: must be a list of names")
    names = list(given)
    if field in _UNLIMITED and names == [ANY]:
        return frozenset(names)
    if ANY in names:
        alone = "stands alone" if field in _UNLIMITED else "is for architectures and data sets only"
        raise BudgetError(f"policy field {field}: {ANY!r} {alone}; list names")
    return frozenset(check_name(f"policy field {field}:", name) for name in names)


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
