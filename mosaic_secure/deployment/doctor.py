"""`mosaic-secure doctor`: whether this machine, and a federation's folder or a kit on it, will work."""

from __future__ import annotations

from pathlib import Path

from mosaic_secure.deployment.findings import Finding, problem, worst
from mosaic_secure.deployment.founding import is_federation, load_federation
from mosaic_secure.deployment.kits import is_kit, load_kit
from mosaic_secure.deployment.machine_checks import check_machine
from mosaic_secure.deployment.place_checks import (
    check_ca,
    check_certificate,
    check_federation_secrets,
    check_kit_secrets,
    check_ledger,
    check_party,
    check_rules,
)
from mosaic_secure.deployment.server_checks import check_port, check_reachable
from mosaic_secure.errors import UserError
from privacy.errors import PrivacyError

__all__ = ["Finding", "check_federation", "check_kit", "diagnose", "worst"]


def diagnose(place: Path | None = None) -> list[Finding]:
    """All findings about this machine and, if given, about a federation's folder or a kit.

    Raises:
        UserError: `place` is neither.
    """
    if place is None:
        return check_machine(Path.cwd())
    if is_federation(place):
        own = check_federation(place)
    elif is_kit(place):
        own = check_kit(place)
    else:
        raise UserError(f"{place}: is neither a federation's folder nor a kit of `mosaic-secure keys`")
    return [*check_machine(place), *own]


def check_federation(place: Path) -> list[Finding]:
    """The folder of a federation, on the machine of its server."""
    secrets = check_federation_secrets(place)
    try:
        description = load_federation(place)
    except UserError as error:
        return [*secrets, problem("federation", str(error), "restore the file")]
    return [
        *secrets,
        check_ca(description),
        check_certificate(place, description),
        check_port(description),
    ]


def check_kit(path: Path) -> list[Finding]:
    """A party's kit, on the party's machine."""
    secrets = check_kit_secrets(path)
    try:
        kit = load_kit(path)
    except (UserError, PrivacyError) as error:
        advice = "mend that first; more is looked at then"
        return [secrets, problem("kit", str(error), advice)]
    return [
        secrets,
        check_party(kit),
        check_rules(kit),
        check_ledger(kit),
        check_ca(kit.description),
        *check_reachable(kit.description),
    ]
