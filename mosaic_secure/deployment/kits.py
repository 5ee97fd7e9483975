"""A kit: one party's home on its own machine, with its keys, its copy of the federation, its own rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_secure.client.authority import TERMS, AuthorityHome
from mosaic_secure.client.session import POLICY, ledger_population
from mosaic_secure.deployment.cards import CARD, Card
from mosaic_secure.deployment.description import AUTHORITY, FEDERATION_FILE, FederationDescription, Party
from mosaic_secure.deployment.material import IDENTITY, read_public_keys
from mosaic_secure.engine.parties import fewest_contributors, starter_policy
from mosaic_secure.errors import UserError
from mosaic_secure.release_requests import release_requests
from privacy.errors import PrivacyError
from privacy.policy import ClientPolicy

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = [
    "Accepted",
    "Kit",
    "accept",
    "check_deployable",
    "is_kit",
    "load_kit",
    "rules_problem",
    "write_rules",
]


@dataclass(frozen=True)
class Kit:
    """A party's home, its copy of the federation, and who it is there."""

    path: Path
    description: FederationDescription
    party: Party

    @property
    def rules(self) -> Path:
        """What the party itself insists on: a client's policy, the authority's terms."""
        return self.path / (TERMS if self.party.role == AUTHORITY else POLICY)


@dataclass(frozen=True)
class Accepted:
    """What `accept` did: the kit, and whether it wrote starter rules or found the party's own."""

    kit: Kit
    wrote_rules: bool


def is_kit(path: Path) -> bool:
    """Whether a folder looks like a party's kit, accepted into a federation or not."""
    return (path / IDENTITY).exists() or (path / CARD).exists()


def load_kit(path: str | Path) -> Kit:
    """Open a kit, and check that its keys are those that the federation knows.

    Raises:
        UserError, PrivacyError: a file is missing or damaged, a key is readable by others, or the federation
            knows no party, or another node key, for this identity.
    """
    home = Path(path)
    if not home.is_dir():
        raise UserError(f"{home}: no such folder; it must be a kit of `mosaic-secure keys`")
    if not (home / IDENTITY).exists() and not any((home / name).exists() for name in (CARD, POLICY, TERMS)):
        raise UserError(f"{home}: is no kit of `mosaic-secure keys`: it holds neither keys nor rules")
    if not (home / FEDERATION_FILE).exists() and (home / CARD).exists():
        raise UserError(
            f"{home}: is a kit of no federation yet; give it one with `mosaic-secure keys accept`"
        )
    description = FederationDescription.load(home / FEDERATION_FILE)
    return Kit(home, description, _own_party(home, description))


def accept(path: str | Path, file: str | Path, fingerprint: str, config: RunConfig | None = None) -> Accepted:
    """Take a federation's description into the kit of a party that made its own card.

    Nothing is written unless all is right. Rules that are there already are kept.

    Args:
        path: the kit. file: the description, from anywhere. fingerprint: as told by its founder, by voice.
        config: decides the starter rules; needed only where the kit has none.

    Raises:
        UserError: the fingerprint, the keys or the configuration do not fit, or the kit's own rules are
            for another federation.
    """
    home = Path(path)
    if not (home / CARD).exists():
        raise UserError(f"{home / CARD}: is missing; make the kit with `mosaic-secure keys card` first")
    card = Card.load(home / CARD)
    description = FederationDescription.load(file)
    if not description.matches(fingerprint):
        raise UserError(
            # The true one is not shown: it would be copied instead of asked for.
            f"--fingerprint {fingerprint!r}: is not that of {file}; ask whoever founded the federation, by "
            "voice, and do not accept a file that differs"
        )
    known = description.find(card.party.party)
    if known != card.party:
        raise UserError(
            f"{file}: does not have this kit's keys as {card.party.party}; the federation must be founded "
            f"with this kit's {CARD}"
        )
    if read_public_keys(home) != (card.party.identity, card.party.node_key):
        raise UserError(f"{home / CARD}: is not of the keys beside it; make a new kit with `keys card`")
    kit = Kit(home, description, card.party)
    wanted = not kit.rules.exists()
    if wanted:
        if config is None:
            raise UserError("config: is missing; the starter rules follow from a configuration")
        check_deployable(config)
        _check_fits(config, description)
    elif problem := rules_problem(kit):
        raise UserError(f"{problem}; it is never overwritten: change it, or move it away and accept again")
    description.save(home / FEDERATION_FILE)
    if wanted:
        write_rules(kit, config)
    return Accepted(kit, wanted)


def write_rules(kit: Kit, config: RunConfig) -> None:
    """Write the rules that a party starts with: as in a simulation of that configuration, but that of private
    data nothing may leave that the configuration does not release."""
    description = kit.description
    if kit.party.role == AUTHORITY:
        AuthorityHome(kit.path).set_terms(description.pinned, fewest_contributors(config))
        return
    identity = description.authority.identity
    policy = starter_policy(config, description.population, description.pinned, identity)
    if not config.is_public:
        asked = frozenset(release.name for release in release_requests(config))
        policy = replace(policy, allowed_releases=asked)
    policy.save(kit.rules)


def rules_problem(kit: Kit, file: Path | None = None) -> str | None:
    """What keeps a party's own rules from working in its federation, in a sentence; None if nothing does.

    `file`: rules that it may come to have; those that it has if None.
    """
    description, path = kit.description, file or kit.rules
    try:
        rules = _read_terms(path) if kit.party.role == AUTHORITY else ClientPolicy.load(path)
    except (UserError, PrivacyError) as error:
        return str(error)
    except (ValueError, TypeError):
        return (
            f"{path}: is damaged; it must be as `mosaic-secure keys` wrote it, or as you changed its values"
        )
    roster = rules.roster if isinstance(rules, ClientPolicy) else rules["roster"]
    if dict(roster) != description.pinned:
        return f"{path}: pins another roster than {FEDERATION_FILE}"
    if not isinstance(rules, ClientPolicy):
        return None
    if rules.authority != description.authority.identity:
        return f"{path}: pins another key authority than {FEDERATION_FILE}"
    if rules.population != description.population:
        named, known = rules.population, description.population
        return f"{path}: is for population {named!r}, {FEDERATION_FILE} for {known!r}"
    return None


def check_deployable(config: RunConfig) -> None:
    """Refuse configurations that only make sense where one machine has all records, or deals them out.

    Raises:
        UserError: naming the field.
    """
    if config.method == "central":
        raise UserError("method = 'central' pools the records of all clients, which a federation never does")
    data = config.data
    if data.dataset == "folder" and data.clients_from != "own":
        raise UserError(
            f"data.clients_from = {data.clients_from!r}: in a federation nobody has all clients' images; use "
            "'own', and give each client its folder with join --data"
        )


def _check_fits(config: RunConfig, description: FederationDescription) -> None:
    population, clients = ledger_population(config), len(description.clients)
    if config.clients.count != clients:
        raise UserError(f"clients.count = {config.clients.count}: the federation has {clients} clients")
    if population != description.population:
        raise UserError(
            f"--config is about population {population!r}, the federation about {description.population!r}: "
            "give the configuration that the federation was founded for"
        )


def _own_party(home: Path, description: FederationDescription) -> Party:
    identity, node_key = read_public_keys(home)
    for party in description.parties:
        if party.identity == identity:
            if party.node_key != node_key:
                raise UserError(f"{home}: its node.key is not the one that the federation knows")
            return party
    raise UserError(f"{home}: its identity.key is of no party of {home / FEDERATION_FILE}")


def _read_terms(path: Path) -> dict[str, Any]:
    try:
        terms = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not isinstance(terms, dict) or not isinstance(terms.get("roster"), dict):
        raise UserError(f"{path}: is damaged; it must have the fields roster and min_contributors")
    minimum = terms.get("min_contributors")
    if type(minimum) is not int or minimum < 1:
        raise UserError(f"{path}: min_contributors must be a whole number from 1")
    return terms
