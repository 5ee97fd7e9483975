"""Whether the server answers with the certificate that parties trust, and whether the clocks agree."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.findings import Finding, ok, problem, warning

__all__ = ["check_port", "check_reachable"]

TIMEOUT = 5.0
CLOCK_TOLERANCE = 5.0
SOON = timedelta(days=30)
_RENEW = "let the founder run `mosaic-secure keys renew` and start the server again"


@dataclass(frozen=True)
class Answer:
    """What a server said of itself: end of its certificate, and how far this clock is ahead of its own.

    `ahead` is in seconds and good to about one, for HTTP tells whole seconds; None where it told no time.
    """

    expires: datetime
    ahead: float | None


def check_reachable(description: FederationDescription, timeout: float = TIMEOUT) -> list[Finding]:
    """From a party's machine: connection, certificate, and the clock against the server's."""
    server = description.server
    try:
        answer = ask(description.host, description.port, description.ca, timeout)
    except ssl.SSLCertVerificationError as error:
        advice = "do not join: ask the founder whether this is the federation's server, and its certificate"
        found = (
            f"{server} shows a certificate that the federation does not vouch for ({error.verify_message})"
        )
        return [problem("server", found, advice)]
    except ssl.SSLError as error:
        reason = error.reason or type(error).__name__
        advice = "see that the port is the server's, and that it was started with TLS"
        return [problem("server", f"{server} does not speak TLS ({reason})", advice)]
    except socket.gaierror:
        advice = "see that the name is right and known to this machine's DNS"
        return [problem("server", f"the name {description.host} cannot be resolved", advice)]
    except (OSError, http.client.HTTPException) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        advice = "see that the server runs, and that no firewall is between"
        return [problem("server", f"{server} cannot be reached ({reason})", advice)]
    findings = [ok("server", f"{server} answers with a certificate of the federation")]
    if answer.expires - datetime.now(UTC) < SOON:
        found = f"the server's certificate ends on {answer.expires:%Y-%m-%d}"
        findings = [warning("server", found, _RENEW)]
    return [*findings, clock_finding(answer.ahead)]


def clock_finding(ahead: float | None) -> Finding:
    """What a difference of clocks means; `ahead` is in seconds, None where it is not known."""
    if ahead is None:
        advice = "compare it by hand: a clock that is ahead by over 5 s makes Flower refuse this party"
        return warning("clock", "the server told no time", advice)
    if abs(ahead) <= CLOCK_TOLERANCE:
        return ok("clock", "agrees with the server's")
    found = f"is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    advice = "set both by NTP: Flower refuses signatures over 5 s ahead of its clock, or 5 minutes behind"
    return warning("clock", found, advice)


def check_port(description: FederationDescription, timeout: float = TIMEOUT) -> Finding:
    """On the server's machine: whether its port is free, or held by the federation's own server."""
    port = description.port
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except PermissionError:
        advice = "choose a port from 1024, or give this user the right"
        return problem("port", f"{port} may not be opened by this user", advice)
    except OSError as error:
        for host in ("127.0.0.1", description.host):
            try:
                ask(host, port, description.ca, timeout)
            except (OSError, http.client.HTTPException):  # ssl's errors are OSErrors
                continue
            return ok("port", f"{port} is held by a server of this federation")
        advice = "stop what holds it, or found the federation with another port"
        return problem("port", f"{port} is held by something else ({error.strerror})", advice)
    return ok("port", f"{port} is free")


def ask(host: str, port: int, ca: str, timeout: float = TIMEOUT) -> Answer:
    """Connect with TLS, trusting `ca` alone, and ask for the time.

    Raises:
        OSError (ssl.SSLError among them), http.client.HTTPException: no such answer within `timeout` seconds
            for each step.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    try:
        connection.connect()
        certificate = connection.sock.getpeercert()
        expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
        return Answer(expires, _ahead(connection))
    finally:
        connection.close()


def _ahead(connection: http.client.HTTPSConnection) -> float | None:
    before = datetime.now(UTC)
    try:
        connection.request("HEAD", "/")
        told = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException):
        return None  # the certificate is right, but this is no web server
    half = (datetime.now(UTC) - before) / 2
    try:
        server = parsedate_to_datetime(told or "").astimezone(UTC)
    except ValueError:
        return None
    return (
        before + half - server
    ).total_seconds() - 0.5  # the header cuts fractions off: half a second's mean
