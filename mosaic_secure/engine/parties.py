"""The parties of a simulated federation: a directory of its own for each client and for the key authority.

Directories lie under the ledger directory, outside every run, and outlast runs: identities, policies and
ledgers stay. A client that has a policy keeps it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_secure.client.authority import AuthorityHome
from mosaic_secure.client.session import IDENTITY, POLICY, ClientHome, enrol, ledger_population
from mosaic_secure.client.withdrawal import Withdrawn
from mosaic_secure.data import ClientDataError, load_client
from mosaic_secure.errors import UserError
from mosaic_secure.plan import ENCRYPTED
from mosaic_secure.protocol.failures import note_failure
from privacy.canonical import canonical_json
from privacy.identity import SigningKey
from privacy.policy import ANY, ClientPolicy
from privacy.storage import make_private_directory, write_durably

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.plan import RunPlan

__all__ = ["Federation", "fewest_contributors", "provision", "starter_policy"]

AUTHORITY = "authority"
_RELEASES = ("counts", *ENCRYPTED, "classifier", "generator", "fine_tune")
_DEALING = "federation.json"
FEWEST_CONTRIBUTORS = 2


@dataclass(frozen=True)
class Federation:
    """The parties of one simulated federation.

    Attributes:
        home: directory of all of them. roster: party id -> public key (hex); the authority is "authority".
        clients: ids in order.
    """

    home: Path
    roster: dict[str, str]
    clients: tuple[str, ...]

    def node_configs(self, data_root: str | None) -> list[dict[str, Any]]:
        """Configuration of every node, clients first, as Flower hands it to the ClientApp."""
        shared = {"data_root": data_root or ""}
        nodes = [
            {"role": "client", "party": name, "home": str(self.home / name), "index": index, **shared}
            for index, name in enumerate(self.clients)
        ]
        return [
            *nodes,
            {"role": AUTHORITY, "party": AUTHORITY, "home": str(self.home / AUTHORITY), "index": -1},
        ]

    def check(self, run_id: str, plan: RunPlan) -> None:
        """Enrol every client here and now, so that a refusal is told in words before anything starts.

        In a simulation whoever starts the run is every client, and may hear why one of them refuses.

        Private records are looked at here, before any message, and what is wrong with them is told where they
        are: once the run has begun, whether a client goes on must not depend on them.

        Raises:
            BudgetError, LedgerError: the first refusal, with the client's name.
            UserError: a client cannot use its private records; why stands in its own directory.
        """
        config = canonical_json(plan.config.to_dict()).decode()
        budget = canonical_json(plan.budget.to_dict()).decode()
        roster = {party: key for party, key in self.roster.items() if party != AUTHORITY}
        if not plan.config.is_public:
            self._check_records(plan.config)
        for client in self.clients:
            try:
                enrol(ClientHome(self.home / client, client), run_id, config, budget, roster)
            except Withdrawn:
                continue  # the run goes on without it, if enough remain
            except ValueError as error:
                raise type(error)(f"{client}: {error}") from None

    def _check_records(self, config: RunConfig) -> None:
        for index, client in enumerate(self.clients):
            try:
                load_client(config, index)
            except ClientDataError as error:
                home = str(self.home / client)
                note_failure(home, "records", error)
                raise UserError(
                    f"{client}: cannot use its own records; the reason is in {home}/failures.log, for its "
                    "owner alone"
                ) from None


def provision(config: RunConfig, ledger_dir: Path) -> Federation:
    """Make the directories, identities and policies that are missing, and return the federation.

    Raises:
        UserError: the records of a private population were dealt to clients by another rule: they would move
            to other ledgers, and spending would be undercounted.
    """
    name = ledger_population(config)
    home = ledger_dir / name
    make_private_directory(home)
    _check_dealing(home, config)
    clients = config.client_ids
    roster = {
        party: SigningKey.load_or_create(home / party / IDENTITY).public.hex()
        for party in (*clients, AUTHORITY)
    }
    pinned = {party: key for party, key in roster.items() if party != AUTHORITY}
    for client in clients:
        path = home / client / POLICY
        if not path.exists():
            starter_policy(config, name, pinned, roster[AUTHORITY]).save(path)
    fewest = fewest_contributors(config)
    AuthorityHome(home / AUTHORITY).set_terms(pinned, fewest)
    return Federation(home, roster, clients)


def fewest_contributors(config: RunConfig) -> int:
    """Fewest contributors that parties insist on; method central has one client, and a home of its own."""
    return min(FEWEST_CONTRIBUTORS, config.clients.count) if config.is_public else config.min_contributors


def starter_policy(
    config: RunConfig, population: str, roster: dict[str, str], authority: str
) -> ClientPolicy:
    """The policy that a client starts with; its owner may change it, and nothing here overwrites it.

    Args:
        population: whose ledgers pay. roster: client id -> public key (hex). authority: public key (hex).
    """
    return ClientPolicy(
        population=population,
        max_epsilon_per_run=config.max_epsilon_per_run,
        max_epsilon_lifetime=config.max_epsilon_lifetime,
        max_delta_lifetime=config.max_delta_lifetime,
        allowed_releases=frozenset(_RELEASES),
        min_contributors=fewest_contributors(config),
        roster=roster,
        authority=authority,
        allow_insecure_noise=config.is_public,
        visibility="public" if config.is_public else "private",
        trust="distributed" if config.is_public else config.privacy.trust,
        colluding_clients=1 if config.is_public else config.privacy.colluding_clients,
        allowed_architectures=frozenset({ANY} if config.is_public else _architectures(config)),
        allowed_datasets=frozenset({ANY if config.is_public else config.data.dataset}),
        pairwise_masks=not config.is_public and config.privacy.pairwise_masks,
    )


def _architectures(config: RunConfig) -> set[str]:
    """All networks that a configuration names, whether or not it switches on what trains them."""
    named = (config.generator.architecture, config.global_model.architecture)
    return {*config.clients.architectures, *named}


def _check_dealing(home: Path, config: RunConfig) -> None:
    """Refuse to deal private records anew: they would move to other clients, whose ledgers know nothing of
    what was spent on them."""
    path, dealing = home / _DEALING, _dealing(config)
    try:
        known = json.loads(path.read_bytes())["dealing"]
        changed = [name for name in dealing if known.get(name) != dealing[name]]
    except FileNotFoundError:
        write_durably(path, canonical_json({"schema_version": 1, "dealing": dealing}))
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: is damaged; it must hold how the records of this population are dealt to clients"
        ) from None
    if changed:
        name = changed[0]
        raise UserError(
            f"{name} = {dealing[name]}: the records of population {config.data.population_id} were dealt to "
            f"clients and their ledgers with {known.get(name)}; use that, or another data.population if no "
            "person is in both"
        )


def _dealing(config: RunConfig) -> dict[str, object]:
    """All that decides which client, and so which ledger, a record belongs to."""
    dealing: dict[str, object] = {"clients.count": config.clients.count}
    if config.is_public:
        return dealing
    dealing["data.clients_from"] = config.data.clients_from
    if config.data.clients_from == "csv":
        dealing["data.csv_column"] = config.data.csv_column
    if config.data.clients_from == "partition":
        rule = config.partition.model_dump(mode="json") | {"seed": config.partition_seed}
        dealing |= {f"partition.{name}": value for name, value in rule.items()}
    return dealing
