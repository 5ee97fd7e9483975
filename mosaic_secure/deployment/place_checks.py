"""Whether the files of a federation's folder, or of a kit, are all there, private, and fit together."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from mosaic_secure.deployment.description import AUTHORITY, FederationDescription
from mosaic_secure.deployment.findings import Finding, ok, problem, warning
from mosaic_secure.deployment.founding import KITS, SERVER
from mosaic_secure.deployment.kits import Kit, rules_problem
from mosaic_secure.deployment.material import (
    CA_CERTIFICATE,
    CA_KEY,
    IDENTITY,
    NODE_KEY,
    RUNTIME_SECRET,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    ca_certificate,
    certifies,
)
from mosaic_secure.deployment.server_checks import SOON
from privacy.errors import LedgerError
from privacy.ledger_check import LEDGER_FILE, read_anchor, verify

__all__ = [
    "check_certificate",
    "check_ca",
    "check_federation_secrets",
    "check_kit_secrets",
    "check_ledger",
    "check_party",
    "check_rules",
]

KIT_SECRETS = (IDENTITY, NODE_KEY, RUNTIME_SECRET)


def check_federation_secrets(place: Path) -> list[Finding]:
    """Modes of the secrets in a federation's folder, and which of them should not be there for long."""
    needed = [place / SERVER / SERVER_KEY, place / SERVER / RUNTIME_SECRET]
    kits = sorted(path for path in (place / KITS).glob("*") if path.is_dir())
    needed += [kit / name for kit in kits for name in KIT_SECRETS]
    ca_key = place / CA_KEY
    findings = [_secrets([*needed, ca_key] if ca_key.exists() else needed, [place, place / SERVER, *kits])]
    if kits:
        found = f"the secrets of {len(kits)} parties lie here"
        advice = "hand each kit to its party over a safe channel and delete it here; with cards none is made"
        findings.append(warning("kits", found, advice))
    if ca_key.exists():
        advice = "move it to where nobody reaches it until `mosaic-secure keys renew`"
        findings.append(
            warning("ca key", f"{CA_KEY} lies here, and whoever has it can be the server", advice)
        )
    return findings


def check_kit_secrets(kit: Path) -> Finding:
    """Modes of the secrets in a kit."""
    return _secrets([kit / name for name in KIT_SECRETS], [kit])


def check_certificate(place: Path, description: FederationDescription) -> Finding:
    """The server's certificate: key, chain, names, and time left."""
    folder, renew = place / SERVER, "renew it with `mosaic-secure keys renew`"
    try:
        certificate = x509.load_pem_x509_certificate((folder / SERVER_CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((folder / SERVER_KEY).read_bytes(), password=None)
        pinned = (folder / CA_CERTIFICATE).read_bytes() == description.ca.encode("ascii")
    except OSError as error:
        return problem("certificate", f"{error.filename} cannot be read ({error.strerror})", renew)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        return problem("certificate", f"a file of {folder} is damaged", renew)
    issuer = ca_certificate(description.ca)
    if not pinned:
        found = f"{folder / CA_CERTIFICATE} is not the CA that the description names"
        return problem("certificate", found, "put the description's there; parties trust no other")
    if key.public_key() != certificate.public_key():
        return problem("certificate", f"{SERVER_CERTIFICATE} is not of {SERVER_KEY}", renew)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return problem("certificate", f"{SERVER_CERTIFICATE} is not signed by the federation's CA", renew)
    if not certifies(certificate, description.host):
        return problem("certificate", f"{SERVER_CERTIFICATE} is not for {description.host}", renew)
    return _validity("certificate", "the server's certificate", certificate, renew)


def check_ca(description: FederationDescription) -> Finding:
    """The time that the CA's certificate has left."""
    certificate = ca_certificate(description.ca)
    return _validity("ca", "the federation's CA certificate", certificate, "found the federation anew")


def check_party(kit: Kit) -> Finding:
    """Whose kit it is, and whether the federation still has that party."""
    name, known = kit.party.party, kit.description.name
    if name in kit.description.revoked:
        advice = "ask the founder: the server lets this party in no more"
        return problem("kit", f"{name} of {known} was revoked", advice)
    return ok("kit", f"{name} of {known}, fingerprint {kit.description.fingerprint}")


def check_rules(kit: Kit) -> Finding:
    """Whether the party's own rules can be read, and are for this federation."""
    name = kit.rules.name
    if not kit.rules.exists():
        advice = "write starter rules with `mosaic-secure keys accept`, and read them"
        return problem("rules", f"{kit.rules} is missing", advice)
    if found := rules_problem(kit):
        return problem("rules", found, "change it, or move it away and run `mosaic-secure keys accept`")
    return ok("rules", f"{name} pins the roster of this federation")


def check_ledger(kit: Kit) -> Finding:
    """Whether a client's ledger verifies, and what guards it against being rolled back."""
    if kit.party.role == AUTHORITY:
        return ok("ledger", "the key authority has none")
    if not (kit.path / LEDGER_FILE).exists():
        return ok("ledger", "none yet; nothing was spent here")
    try:
        report = verify(kit.path, bytes.fromhex(kit.party.identity))
        anchor = None if report.problems else read_anchor(kit.path)
    except LedgerError as error:
        return problem("ledger", str(error), "restore the newest copy; never begin a new one")
    if report.problems:
        return problem("ledger", report.problems[0], "restore the newest copy; never begin a new one")
    spent = f"{report.entries} entries, epsilon {report.lifetime_epsilon:.4g} spent"
    if anchor is None:
        advice = "none is needed before the first run ends; later a rollback would not be detected"
        return warning("ledger", f"{spent}, no anchor of the key authority", advice)
    if anchor.authority.hex() != kit.description.authority.identity:
        advice = "ask the founder: this ledger was anchored in another federation"
        return warning("ledger", f"{spent}, anchored by another key authority", advice)
    return ok("ledger", f"{spent}, anchored by the key authority")


def _secrets(files: list[Path], folders: list[Path]) -> Finding:
    for path in files:
        try:
            mode = path.stat().st_mode & 0o777
        except OSError as error:
            advice = "restore it; a party's own keys cannot be made anew"
            return problem("secrets", f"{path} cannot be read ({error.strerror})", advice)
        if mode & 0o077:
            found = f"{path} has mode {mode:04o}, which lets others at it"
            return problem("secrets", found, f"run `chmod 600 {path}`, and think of who may have read it")
        if not os.access(path, os.R_OK):
            return problem("secrets", f"{path} cannot be read by this user", "run as its owner")
    for path in folders:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            found = f"folder {path} has mode {mode:04o}, and is not private"
            return warning("secrets", found, f"run `chmod 700 {path}`")
    return ok("secrets", f"{len(files)} files of mode 0600")


def _validity(name: str, what: str, certificate: x509.Certificate, renew: str) -> Finding:
    now, start, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        found = f"{what} begins on {start:%Y-%m-%d %H:%M} UTC only"
        return problem(name, found, "set this machine's clock")
    if now >= end:
        return problem(name, f"{what} ended on {end:%Y-%m-%d}", renew)
    if end - now < SOON:
        return warning(name, f"{what} ends on {end:%Y-%m-%d}", renew)
    return ok(name, f"{what} holds until {end:%Y-%m-%d}")
