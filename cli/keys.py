"""`mosaic-secure keys`: the certificates, keys and kits of a deployed federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from mosaic_secure.deployment.description import FederationDescription
    from mosaic_secure.deployment.kits import Kit

INIT_EXAMPLE = "Example: mosaic-secure keys init federation --config digits --server fl.example.org:8443"
CARD_EXAMPLE = "Example: mosaic-secure keys card kit --party client-2"
ACCEPT_EXAMPLE = (
    "Example: mosaic-secure keys accept kit federation.json "
    "--fingerprint 25d4-578d-084c-e74d-2783-a12e-0563-f0fc --config digits"
)
SHOW_EXAMPLE = "Example: mosaic-secure keys show federation"
REVOKE_EXAMPLE = "Example: mosaic-secure keys revoke federation client-2"
RENEW_EXAMPLE = "Example: mosaic-secure keys renew federation"

app = typer.Typer(
    no_args_is_help=True,
    help="Found a federation on several machines; make and check its keys.",
    epilog=INIT_EXAMPLE,
)

Federation = Annotated[Path, typer.Argument(metavar="FEDERATION", show_default=False)]
KitPath = Annotated[Path, typer.Argument(metavar="KIT", show_default=False)]


@app.command(epilog=INIT_EXAMPLE)
def init(
    federation: Federation,
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where parties reach the server.")],
    config: options.Config = None,
    clients: options.Clients = None,
    trust: options.Trust = None,
    settings: options.Set = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="For people.", show_default="the population")
    ] = None,
    cards: Annotated[
        list[Path] | None,
        typer.Option("--card", metavar="FILE", help="Of a party with keys of its own; repeatable."),
    ] = None,
    cards_only: Annotated[
        bool, typer.Option("--cards-only", help="Refuse to draw keys for parties without a card.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Make the folder of a federation: description, CA, server's certificate, and a kit for each party.

    FEDERATION must not exist, or be empty. A party whose card is given keeps its keys and gets no kit here.
    """
    from mosaic_secure.deployment.founding import KITS, found

    chosen = options.configuration(
        config, options.overrides(settings, clients__count=clients, privacy__trust=trust)
    )
    made = found(federation, chosen, server, name, cards or (), cards_only)
    record = _record(made) | {"federation": str(federation)}
    rows = _parties(made)
    for row in rows:
        kit = federation / KITS / row["party"]
        row["kit"] = str(kit) if kit.exists() else "its own"
    _print_federation(record, rows)
    print()
    for step in _next_steps(federation, made.fingerprint, {row["kit"] != "its own" for row in rows}):
        print(f"- {step}")
    if json:
        print_json(record | {"parties": rows})


@app.command(epilog=CARD_EXAMPLE)
def card(
    kit: KitPath,
    party: Annotated[str, typer.Option(metavar="CLIENT-N|authority", help="Who this machine is to be.")],
    json: options.Json = False,
) -> None:
    """Draw a party's keys on its own machine, and write the card that its founder asks for.

    KIT must not exist, or be empty. KIT/card.json is public and all that leaves this machine.
    """
    from mosaic_secure.deployment.cards import CARD, make_card

    made = make_card(kit, party)
    record = {"kit": str(kit), "party": party, "card": str(kit / CARD), "identity": made.fingerprint}
    print_facts(record)
    print()
    print(f"Send {kit / CARD} to whoever founds the federation; compare the identity above by voice.")
    print("All else in the folder is secret, or yours alone: send none of it.")
    if json:
        print_json(record | {"public": made.to_dict()})


@app.command(epilog=ACCEPT_EXAMPLE)
def accept(
    kit: KitPath,
    file: Annotated[Path, typer.Argument(metavar="federation.json", show_default=False)],
    fingerprint: Annotated[str, typer.Option(metavar="DIGITS", help="As the founder told it, by voice.")],
    config: options.Config = None,
    trust: options.Trust = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Take a federation's description into a kit that was made by `keys card`, with rules to start from.

    The configuration decides the starter rules. Rules that are there already are kept.
    """
    from mosaic_secure.deployment.description import FederationDescription
    from mosaic_secure.deployment.kits import accept as take

    fields = options.overrides(settings, privacy__trust=trust)
    # How many clients there are is in what the person accepts, not in a configuration.
    fields.setdefault("clients.count", len(FederationDescription.load(file).clients))
    taken = take(kit, file, fingerprint, options.configuration(config, fields))
    rules = taken.kit.rules
    record = _record(taken.kit.description) | {"kit": str(kit), "party": taken.kit.party.party}
    print_facts({name: value for name, value in record.items() if name != "revoked"})
    print()
    if taken.wrote_rules:
        print(f"{rules} is a start. Read it and change it before you join: no run gets more than it allows.")
        print_table(_to_read(taken.kit))
    else:
        print(f"{rules} was there already and is kept as it is")
    if json:
        print_json(record | {"rules": str(rules), "wrote_rules": taken.wrote_rules})


@app.command(epilog=SHOW_EXAMPLE)
def show(
    path: Annotated[Path, typer.Argument(metavar="FEDERATION|KIT", show_default=False)],
    json: options.Json = False,
) -> None:
    """Print parties, fingerprints, and how long certificates hold."""
    from mosaic_secure.deployment.founding import is_federation, load_federation, server_certificate
    from mosaic_secure.deployment.kits import load_kit

    if is_federation(path):
        description = load_federation(path)
        record = _record(description)
        ends = server_certificate(path).not_valid_after_utc
        record["server_certificate_until"] = f"{ends:%Y-%m-%d}"
    else:
        kit = load_kit(path)
        description = kit.description
        record = {"party": kit.party.party} | _record(description)
    rows = _parties(description)
    _print_federation(record, rows)
    if json:
        print_json(record | {"parties": rows})


@app.command(epilog=REVOKE_EXAMPLE)
def revoke(
    federation: Federation,
    party: Annotated[str, typer.Argument(metavar="CLIENT-N", show_default=False)],
    json: options.Json = False,
) -> None:
    """Shut a client out. A running server reads the change from FEDERATION/federation.json.

    What it released stays released; who takes part, and so the fingerprint, stays as it was.
    """
    from mosaic_secure.deployment.founding import revoke as shut_out

    description = shut_out(federation, party)
    left = len(description.clients) - len(description.revoked)
    record = {"revoked": list(description.revoked), "clients_left": left}
    print(f"{party} is revoked; {left} of {len(description.clients)} clients are left")
    if json:
        print_json(record)


@app.command(epilog=RENEW_EXAMPLE)
def renew(federation: Federation, json: options.Json = False) -> None:
    """Issue a new certificate for the server, signed by the same CA; needs FEDERATION/ca.key.

    The parties need nothing new. Start the server again to use it.
    """
    from mosaic_secure.deployment.founding import renew as issue

    ends = issue(federation).not_valid_after_utc
    print(f"the server's certificate now holds until {ends:%Y-%m-%d}; start the server again to use it")
    print(f"put {federation / 'ca.key'} back where nobody reaches it")
    if json:
        print_json({"federation": str(federation), "server_certificate_until": f"{ends:%Y-%m-%d}"})


def _next_steps(federation: Path, fingerprint: str, made_here: set[bool]) -> list[str]:
    steps = []
    if True in made_here:
        steps.append(
            f"Hand each folder of {federation / 'kits'} to its party over a safe channel; delete it here."
        )
    if False in made_here:
        steps.append(f"Send {federation / 'federation.json'} to parties with a card, for `keys accept`.")
    return [
        *steps,
        f"Tell every party the fingerprint by voice: {fingerprint}",
        "Each client reads its policy.toml, and changes it, before it joins.",
        f"Keep {federation / 'ca.key'} offline: only `mosaic-secure keys renew` needs it.",
    ]


def _record(description: FederationDescription) -> dict[str, Any]:
    from mosaic_secure.deployment.material import ca_certificate

    return {
        "name": description.name,
        "server": description.server,
        "population": description.population,
        "fingerprint": description.fingerprint,
        "ca_until": f"{ca_certificate(description.ca).not_valid_after_utc:%Y-%m-%d}",
        "revoked": list(description.revoked),
    }


def _parties(description: FederationDescription) -> list[dict[str, Any]]:
    from privacy.identity import fingerprint

    return [
        {
            "party": party.party,
            "role": party.role,
            "identity": fingerprint(bytes.fromhex(party.identity)),
            "revoked": party.party in description.revoked,
        }
        for party in description.parties
    ]


def _print_federation(record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print_facts(record | {"revoked": ", ".join(record["revoked"]) or "nobody"})
    print()
    print_table(rows)


def _to_read(kit: Kit) -> list[dict[str, Any]]:
    from mosaic_secure.deployment.reading import rules_to_read

    return [
        {"field": field, "value": value, "means": meaning} for field, value, meaning in rules_to_read(kit)
    ]
