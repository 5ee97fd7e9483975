"""The secrets of a deployed federation: certificates, keys of SuperNodes, identities, runtime secrets.

Secrets are written once, with mode 0600, and are never in a message, a log or an error.
"""

from __future__ import annotations

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mosaic_secure.deployment.description import node_key_line
from mosaic_secure.errors import UserError
from privacy.errors import PrivacyError
from privacy.identity import SigningKey
from privacy.storage import read_private, write_durably

CA_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"
CA_CERTIFICATE = "ca.pem"
RUNTIME_SECRET = "runtime.secret"
IDENTITY = "identity.key"
NODE_KEY = "node.key"

CA_DAYS = 3652
SERVER_DAYS = 825
RUNTIME_SECRET_BYTES = 32
_CLOCKS_APART = timedelta(hours=1)
"""A certificate of this minute must hold on a machine whose clock is behind."""
_LONGEST_COMMON_NAME = 64


def create_ca(key_path: Path, name: str, *, days: int = CA_DAYS, now: datetime | None = None) -> str:
    """Draw the key of a certificate authority, store it at `key_path`, and return its certificate.

    Args:
        key_path: must not exist. name: of the federation. days: > 0, how long the certificate holds.
        now: the time to count from; by default the clock's.

    Returns:
        PEM of a self-signed ECDSA P-256 certificate that may sign servers' certificates and no other CA's.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    start = now or datetime.now(UTC)
    subject = _subject(f"mosaic-secure CA {name}")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), start, start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    write_durably(key_path, _pem(key), replace=False)
    return _text(certificate)


def issue_server_certificate(
    folder: Path, ca_key: Path, ca: str, host: str, *, days: int = SERVER_DAYS, now: datetime | None = None
) -> x509.Certificate:
    """Write `server.pem` under `folder`, and a new `server.key` where there is none yet.

    A renewal keeps the key, so that one file is replaced, at once, and the two always belong together.

    Args:
        folder: of the server. ca_key: path of the CA's key. ca: PEM of the CA's certificate.
        host: DNS name or address under which parties reach the server; localhost is added.
        days: > 0; cut where the CA's certificate ends.

    Raises:
        UserError: the CA's key is missing or is not that of `ca`, or the CA's certificate has run out.
    """
    issuer = ca_certificate(ca)
    signer = _load_key(ca_key, "the key of the federation's CA; put it back for as long as a renewal takes")
    if signer.public_key() != issuer.public_key():
        raise UserError(f"{ca_key}: is not the key of this federation's CA certificate")
    start = now or datetime.now(UTC)
    end = min(start + timedelta(days=days), issuer.not_valid_after_utc)
    if end <= start:
        raise UserError(
            f"the federation's CA certificate ran out on {issuer.not_valid_after_utc:%Y-%m-%d}: found the "
            "federation anew with `mosaic-secure keys init`"
        )
    path = folder / SERVER_KEY
    if path.exists():
        key = _load_key(path, "the key of the server's certificate")
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_durably(path, _pem(key), replace=False)
    certificate = (
        _builder(_subject(host), issuer.subject, key.public_key(), start, end)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    write_durably(folder / SERVER_CERTIFICATE, _text(certificate).encode("ascii"))
    return certificate


def create_party_keys(kit: Path) -> tuple[str, str]:
    """Draw a party's secrets under `kit`, none of which may exist.

    Returns:
        Identity (64 hex digits) and the OpenSSH line of the node's key.
    """
    identity = SigningKey.create(kit / IDENTITY).public.hex()
    node = ec.generate_private_key(ec.SECP384R1())
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    data = node.private_bytes(encoding, form, serialization.NoEncryption())
    write_durably(kit / NODE_KEY, data, replace=False)
    create_runtime_secret(kit)
    return identity, node_key_line(node.public_key())


def create_runtime_secret(folder: Path) -> None:
    """Draw what Flower's SuperExec proves itself with; Flower takes the bytes of the file as they are."""
    write_durably(folder / RUNTIME_SECRET, secrets.token_bytes(RUNTIME_SECRET_BYTES), replace=False)


def read_public_keys(kit: Path) -> tuple[str, str]:
    """Identity (hex) and node key (OpenSSH line) that belong to the secrets under `kit`.

    Raises:
        UserError, PrivacyError: a key is missing, damaged, or readable by others.
    """
    identity = SigningKey.load(kit / IDENTITY).public.hex()
    path = kit / NODE_KEY
    data = read_secret(path)
    try:
        key = serialization.load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UserError(f"{path}: is damaged; it must be a SECP384R1 key in OpenSSH format")
    return identity, node_key_line(key.public_key())


def read_secret(path: Path) -> bytes:
    """The bytes of a secret file; raises UserError where it is missing or others may read it."""
    try:
        return read_private(path)
    except PrivacyError as error:
        raise UserError(str(error)) from None


def ca_certificate(pem: str) -> x509.Certificate:
    """The certificate in a (checked) description's PEM text."""
    return x509.load_pem_x509_certificate(pem.encode("ascii"))


def certifies(certificate: x509.Certificate, host: str) -> bool:
    """Whether a server's certificate names this DNS name or address."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        known = (name.lower() for name in names.get_values_for_type(x509.DNSName))
        return host.lower() in known


def _load_key(path: Path, what: str) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        raise UserError(f"{path}: is missing; it must be {what}")
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path}: is damaged; it must be {what}")
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCKS_APART)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _names(host: str) -> list[x509.GeneralName]:
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    names = ["localhost"]
    try:
        given = ipaddress.ip_address(host)
    except ValueError:
        names = [host, *(name for name in names if name != host)]
    else:
        addresses = [given, *(address for address in addresses if address != given)]
    return [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]


def _subject(name: str) -> x509.Name:
    # What clients check is the alternative name; the common name is for people, and X.509 bounds its length.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME])])


def _key_usage(**used: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
