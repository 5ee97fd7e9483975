"""A plan, a policy and a home that the ledger tests share, and the release that their victims repeat."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from privacy.accounting import compose_epsilon
from privacy.budget import BudgetPlan, PlannedRelease
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.policy import ClientPolicy
from privacy.randomness import NoiseSource
from privacy.releases import ReleaseStore

POPULATION = "patients"


def make_plan(*, rounds: int = 3, noise: float = 4.0, delta: float = 1e-5) -> BudgetPlan:
    """Two Gaussian releases, of `rounds` rounds and of one, that compose to a few epsilon in no time."""
    releases = (
        PlannedRelease("prototypes", 0.5, "gaussian", rounds, noise_multiplier=noise),
        PlannedRelease("counts", 0.5, "gaussian", 1, noise_multiplier=noise),
    )
    epsilon = compose_epsilon([release.event for release in releases], delta)
    return BudgetPlan(epsilon, delta, epsilon, releases)


def make_policy(**changes: object) -> ClientPolicy:
    return ClientPolicy(
        **{"population": POPULATION, "allowed_releases": frozenset({"prototypes", "counts"}), **changes}
    )


def open_ledger(home: Path, *, wait_seconds: float = 0.0) -> Ledger:
    key = SigningKey.load_or_create(home / "identity.key")
    return Ledger.open(home, POPULATION, key, wait_seconds=wait_seconds)


def enrolled(home: Path, run_id: str = "run-1", **changes: object) -> Ledger:
    ledger = open_ledger(home)
    ledger.enrol(run_id, make_plan(), "config", make_policy(**changes))
    return ledger


def produce(noise: NoiseSource) -> bytes:
    """A release with real noise: the same secret gives the same bytes."""
    return noise.normal(1000).tobytes()


def event(name: str = "prototypes"):
    return make_plan().release(name).round_event


def release_all(home: Path) -> None:
    """The victim of the kill tests: makes every release of the plan and prints the hash of each."""
    with open_ledger(home, wait_seconds=20.0) as ledger:
        ledger.enrol("run-1", make_plan(), "config", make_policy())
        store = ReleaseStore(home, ledger, "run-1")
        for name, round in (("prototypes", 0), ("prototypes", 1), ("prototypes", 2), ("counts", 0)):
            data = store.release(name, round, b"inputs", event(name), produce)
            print(f"{home.name}/{name}-{round} {hashlib.sha256(data).hexdigest()}", flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    for folder in sys.argv[1:]:
        release_all(Path(folder))
