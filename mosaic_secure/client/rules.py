"""What a client's policy says of a run, as far as asking costs nothing: no epsilon is composed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from privacy.errors import PolicyError

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.plan import RunPlan
    from privacy.policy import ClientPolicy, Trust

__all__ = ["Terms", "check_run", "client_index", "ledger_population", "terms_of", "trained_architectures"]


class Terms(TypedDict):
    """The terms of trust of a run, as a ledger is told them at enrolment."""

    trust: Trust
    min_contributors: int
    honest_clients: int | None
    colluding_clients: int
    insecure_noise: bool


def terms_of(config: RunConfig) -> Terms:
    """The terms of trust that a configuration asks for."""
    return Terms(
        trust=config.privacy.trust,
        min_contributors=config.min_contributors,
        honest_clients=config.honest_clients if config.privacy.trust == "distributed" else None,
        colluding_clients=config.privacy.colluding_clients,
        insecure_noise=config.privacy.insecure_reproducible_noise,
    )


def ledger_population(config: RunConfig) -> str:
    """The population whose ledgers pay for a run: of public data, one for each number of clients."""
    population = config.data.population_id
    return f"{population}-{config.clients.count}" if config.is_public else population


def client_index(config: RunConfig, party: str) -> int:
    """The position of a client among those of a run; raises PolicyError for a party that is none."""
    if party not in config.client_ids:
        raise PolicyError(f"clients.count = {config.clients.count}: {party} is no client of this run")
    return config.client_ids.index(party)


def trained_architectures(config: RunConfig, index: int) -> tuple[str, ...]:
    """Names of the networks that client `index` trains in a run, in order, each once."""
    named = (
        (config.classifier.enabled, config.architecture_of(index)),
        (config.generator.enabled, config.generator.architecture),
        (config.fine_tune.rounds > 0, config.global_model.architecture),
    )
    return tuple(dict.fromkeys(name for trained, name in named if trained))


def check_run(policy: ClientPolicy, plan: RunPlan, index: int, roster: Mapping[str, str]) -> None:
    """Accept a run, or raise PolicyError: who takes part, whose records they are, what is trained on them.

    Its releases, their cost and the terms of trust are the ledger's to check, see `Ledger.enrol`.

    Args:
        index: position of this client in the run.
        roster: client id -> public key (hex) of all who take part; must be the policy's.
    """
    config = plan.config
    if dict(roster) != dict(policy.roster):
        raise PolicyError("roster: it is not the one that this client's policy pins")
    if plan.info.visibility != policy.visibility:
        raise PolicyError(
            f"data.visibility = {plan.info.visibility!r}: by its policy the records of this client are "
            f"{policy.visibility}"
        )
    if ledger_population(config) != policy.population:
        raise PolicyError(
            f"data.population: the run is about {ledger_population(config)!r}, this client's policy and "
            f"ledger about {policy.population!r}"
        )
    policy.check_sums(bool(plan.mechanisms), plan.is_masked)
    policy.check_use(config.data.dataset, trained_architectures(config, index))
