"""`serve`: the server of a federation. It keeps a SuperLink up, lets nodes in, and starts runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from mosaic_secure.deployment.control import Control
from mosaic_secure.deployment.founding import load_federation
from mosaic_secure.deployment.leading import TOKEN
from mosaic_secure.deployment.leash import Child
from mosaic_secure.deployment.machine import flower_environment
from mosaic_secure.deployment.superlink import listening
from mosaic_secure.deployment.tasks import TaskSource
from mosaic_secure.errors import UserError
from privacy.storage import make_private_directory

__all__ = ["Server"]

_PAUSE = 0.5  # seconds between two looks for a task
_LOOK_SECONDS = 5.0  # between two looks at the description
_START_SECONDS = 120.0


class Server:
    """The server's processes.

    Args:
        place: the federation's folder.
        host: address to listen at; all addresses of the kind that the description names when None.
        port: of the SuperLink; that of the description when None.
        told: is called with a line about what happens.

    Raises:
        UserError: `place` is no federation's folder, or `host` no address of this machine.
    """

    def __init__(self, place: Path, host: str | None, port: int | None, told: Callable[[str], None]) -> None:
        self._place, self._server, self._told = place, place / "server", told
        self._federation = load_federation(place)
        self.host = _address(host) if host else "::" if ":" in self._federation.host else "0.0.0.0"
        self.port = port or self._federation.port
        state = self._server / "state"
        make_private_directory(state)
        self._environment = flower_environment(self._server / "flower")
        self._link = Child(
            "mosaic_secure.deployment.superlink",
            [
                *("--ssl-certfile", str(self._server / "server.pem")),
                *("--ssl-keyfile", str(self._server / "server.key")),
                *("--ssl-ca-certfile", str(self._server / "ca.pem")),
                "--enable-supernode-auth",
                "--disable-runtime-dependency-installation",
                *("--isolation", "process"),
                *("--superexec-auth-secret-file", str(self._server / "runtime.secret")),
                *("--database", str(state / "superlink.db")),
                *("--host", self.host, "--port", str(self.port)),
            ],
            self._server / "logs" / "superlink.log",
            self._environment,
        )
        self._address = f"127.0.0.1:{self.port}"
        self._source: TaskSource | None = None
        self._control: Control | None = None
        self._runs: list[Child] = []
        self._let_in: tuple[str, ...] | None = None
        self._looked = 0.0

    def start(self, stop: threading.Event) -> None:
        """Start the SuperLink and let in the nodes of the description.

        Raises:
            UserError: it does not start; its log says why.
        """
        self._link.start()
        self._control = Control(self.port, self._server / "ca.pem")
        end = time.monotonic() + _START_SECONDS
        while not stop.is_set():
            try:
                self._admit()
                break
            except UserError:
                if self._link.pid is None or time.monotonic() > end:
                    raise UserError(
                        f"server: the SuperLink does not start at port {self.port}; see {self._link.log}"
                    ) from None
                stop.wait(_PAUSE)
        secret = (self._server / "runtime.secret").read_bytes()
        self._source = TaskSource(self._address, "serverapp", secret, (self._server / "ca.pem").read_bytes())

    def step(self, stop: threading.Event) -> None:
        """Start what is asked for, keep up what should run; pauses a little."""
        if self._link.keep():
            self._told("the SuperLink ended and is started again")
        token = self._source.acquire() if self._source is not None else None
        if token is not None:
            self._lead(token)
        self._runs = [run for run in self._runs if run.pid is not None or self._ended(run)]
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            try:
                self._admit()
            except UserError as error:
                self._told(str(error))
        stop.wait(_PAUSE)

    def close(self) -> None:
        """End all processes of the server; runs that are under way can be resumed."""
        for run in self._runs:
            run.stop()
        self._link.stop()
        for connection in (self._source, self._control):
            if connection is not None:
                connection.close()

    def _lead(self, token: str) -> None:
        log = self._server / "logs" / "runs.log"
        run = Child(
            "mosaic_secure.deployment.leading",
            ["--address", self._address, "--federation", str(self._place.absolute())],
            log,
            {**self._environment, TOKEN: token},
        )
        run.start()
        self._runs.append(run)
        self._told("a run begins")

    def _ended(self, run: Child) -> bool:
        self._told("a run has ended" if run.status == 0 else f"a run has ended with status {run.status}")
        run.stop()
        return False

    def _admit(self) -> None:
        """Register the nodes of all parties that are not revoked, and put out those that are."""
        if self._control is None:
            return
        self._looked = time.monotonic()
        federation = load_federation(self._place)
        if self._let_in == federation.revoked:
            return
        known = self._control.nodes()
        for party in federation.parties:
            key = _as_flower_keeps_it(party.node_key)
            if party.party in federation.revoked:
                if key in known:
                    self._control.unregister(known[key])
                    self._told(f"{party.party}: its node is revoked")
            elif key not in known:
                self._control.register(key, party.party)
        self._let_in = federation.revoked


def _address(host: str) -> str:
    """An address that this machine can listen at."""
    try:
        for opened in listening(host, 0):
            opened.close()
    except (ValueError, OSError):
        raise UserError(
            f"--host {host}: must be an address of this machine, such as 0.0.0.0 for all of IPv4"
        ) from None
    return host


def _as_flower_keeps_it(line: str) -> bytes:
    """A node's public key as PEM, from its OpenSSH line."""
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    return public_key_to_bytes(load_ssh_public_key(line.encode("ascii")))
