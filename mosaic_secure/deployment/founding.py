"""What the founder of a federation does: make its folder and kits, shut a client out, renew a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from mosaic_secure.client.session import ledger_population
from mosaic_secure.deployment.cards import Card
from mosaic_secure.deployment.description import (
    AUTHORITY,
    FEDERATION_FILE,
    FederationDescription,
    Party,
    check_plain_name,
    parse_address,
)
from mosaic_secure.deployment.folders import new_folder
from mosaic_secure.deployment.kits import Kit, check_deployable, write_rules
from mosaic_secure.deployment.material import (
    CA_CERTIFICATE,
    CA_KEY,
    SERVER_CERTIFICATE,
    create_ca,
    create_party_keys,
    create_runtime_secret,
    issue_server_certificate,
)
from mosaic_secure.errors import UserError
from privacy.storage import make_private_directory, write_durably

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = [
    "KITS",
    "SERVER",
    "found",
    "is_federation",
    "load_federation",
    "renew",
    "revoke",
    "server_certificate",
]

SERVER = "server"
KITS = "kits"


def found(
    place: Path,
    config: RunConfig,
    server: str,
    name: str | None = None,
    cards: Sequence[Path] = (),
    cards_only: bool = False,
) -> FederationDescription:
    """Make the folder of a federation: its description, its CA, the server's material, and kits.

    A party whose card is given keeps its keys to itself and gets no kit here.

    Args:
        place: must not exist, or be empty; is whole after an interrupt, or not there.
        config: decides the number of clients, their population and the starter rules.
        server: "host:port" as parties reach it. name: for people; by default the population.
        cards: files of parties that drew their own keys. cards_only: refuse to draw keys for anybody.

    Raises:
        UserError: the configuration cannot be deployed, a card is wrong, or `place` holds something.
    """
    check_deployable(config)
    host, _ = parse_address(server)
    given = _read_cards(cards, (*config.client_ids, AUTHORITY))
    missing = [party for party in (*config.client_ids, AUTHORITY) if party not in given]
    if cards_only and missing:
        raise UserError(
            f"--cards-only: there is no card of {', '.join(missing)}; give one of each with --card"
        )
    population = ledger_population(config)
    name = check_plain_name("name", population if name is None else name)
    with new_folder(place) as folder:
        ca = create_ca(folder / CA_KEY, name)
        parties = [card.party for card in given.values()]
        for party in missing:
            identity, node_key = create_party_keys(folder / KITS / party)
            parties.append(Party(party, AUTHORITY if party == AUTHORITY else "client", identity, node_key))
        description = FederationDescription(name, server, ca, tuple(parties), population)
        description.save(folder / FEDERATION_FILE)
        _write_server(folder / SERVER, folder / CA_KEY, description, host)
        for party in missing:
            _fill_kit(folder / KITS / party, description, party, config)
    return description


def revoke(place: Path, party: str) -> FederationDescription:
    """Name a client as one that the server no longer lets in, in the founder's copy of the description.

    A running server reads that copy; nothing is told to it from here. Repeating changes nothing.

    Raises:
        UserError: there is no such client, or `place` is not a federation's folder.
    """
    description = load_federation(place)
    if party == AUTHORITY:
        raise UserError(
            "authority: cannot be revoked, for no sum is decrypted without it; found a new federation"
        )
    if description.find(party) is None:
        clients = description.clients
        raise UserError(f"{party!r}: must be one of {clients[0].party} to {clients[-1].party}")
    changed = description.revoke(party)
    changed.save(place / FEDERATION_FILE)
    return changed


def renew(place: Path) -> x509.Certificate:
    """Issue a new certificate for the server with the CA's key; parties notice nothing.

    Raises:
        UserError: `place` is not a federation's folder, or the CA's key is missing.
    """
    description = load_federation(place)
    return issue_server_certificate(place / SERVER, place / CA_KEY, description.ca, description.host)


def server_certificate(place: Path) -> x509.Certificate:
    """The server's certificate under a federation's folder; raises UserError where it cannot be read."""
    path = place / SERVER / SERVER_CERTIFICATE
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, x509.InvalidVersion):
        raise UserError(f"{path}: is damaged; make it anew with `mosaic-secure keys renew`") from None


def is_federation(path: Path) -> bool:
    """Whether a folder looks like that of a federation's founder or server."""
    return (path / FEDERATION_FILE).exists() and (path / SERVER).is_dir()


def load_federation(place: Path) -> FederationDescription:
    """The description in the folder of a federation; raises UserError where it is none."""
    if not is_federation(place):
        raise UserError(f"{place}: is no folder of a federation; make one with `mosaic-secure keys init`")
    return FederationDescription.load(place / FEDERATION_FILE)


def _read_cards(paths: Sequence[Path], parties: Sequence[str]) -> Mapping[str, Card]:
    cards: dict[str, Card] = {}
    for path in paths:
        card = Card.load(path)
        party = card.party.party
        if party not in parties:
            raise UserError(
                f"--card {path}: is of {party}; the parties are {parties[0]} to {parties[-2]} and {AUTHORITY}"
            )
        if party in cards:
            raise UserError(f"--card {path}: is a second card of {party}; give one of each")
        cards[party] = card
    return cards


def _write_server(folder: Path, ca_key: Path, description: FederationDescription, host: str) -> None:
    make_private_directory(folder)
    issue_server_certificate(folder, ca_key, description.ca, host)
    write_durably(folder / CA_CERTIFICATE, description.ca.encode("ascii"))
    create_runtime_secret(folder)


def _fill_kit(folder: Path, description: FederationDescription, party: str, config: RunConfig) -> None:
    description.save(folder / FEDERATION_FILE)
    known = description.find(party)
    if known is None:
        raise UserError(f"{party}: is no party of this federation")
    write_rules(Kit(folder, description, known), config)
