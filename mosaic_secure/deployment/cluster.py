"""`train --local-cluster N`: a whole federation as processes of this machine, for a trial and for tests.

The processes are those of the commands that it prints, each party with a kit and a ledger of its own. They
speak through TLS on the loopback address, and end with the process that started them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_secure.client.session import ledger_population
from mosaic_secure.deployment.control import Control
from mosaic_secure.deployment.founding import KITS, SERVER, found, is_federation, load_federation
from mosaic_secure.deployment.leash import Child
from mosaic_secure.deployment.machine import free_port
from mosaic_secure.deployment.material import CA_CERTIFICATE
from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = ["LocalCluster", "cluster_place"]

_START_SECONDS = 180.0
_POLL_SECONDS = 0.3


def cluster_place(config: RunConfig, ledgers: Path) -> Path:
    """Where the cluster of a population lies: beside the ledgers of simulations, which are others."""
    return ledgers / f"cluster-{ledger_population(config)}"


class LocalCluster:
    """The processes of a federation on this machine, as a context: all of them run inside, none after.

    Args:
        config: what they are for. place: the federation's folder, made if there is none.
        data_root: where public benchmarks lie. told: is called with a line about what happens.

    Attributes:
        place: the federation's folder. parties: ids, the authority last. port: of the SuperLink.
        commands: as a person would type them, each in a terminal of its own.
    """

    def __init__(
        self, config: RunConfig, place: Path, data_root: str | None, told: Callable[[str], None]
    ) -> None:
        if config.data.dataset == "folder":
            raise UserError(
                "data.dataset = 'folder': --local-cluster deals out public benchmarks; for images try the "
                "run without it, or give each client its kit and its folder as in docs/deploy.md"
            )
        self.place, self._told = place, told
        self.port = free_port()
        if not is_federation(place):
            found(place, config, f"127.0.0.1:{self.port}")
        federation = load_federation(place)
        if list(federation.pinned) != list(config.client_ids):
            raise UserError(
                f"{place}: is a federation of {len(federation.clients)} clients, not {config.clients.count}; "
                f"use --local-cluster {len(federation.clients)}, or another --federation"
            )
        self.parties = tuple(party.party for party in federation.parties)
        at = ["--superlink", f"127.0.0.1:{self.port}"]
        where = ["--data-root", data_root] if data_root else []
        kits = place / KITS
        clients = {party: ["join", str(kits / party), *where, *at] for party in federation.pinned}
        self._arguments = {
            "server": ["serve", str(place), "--host", "127.0.0.1", "--port", str(self.port)],
            federation.authority.party: ["authority", str(kits / federation.authority.party), *at],
            **clients,
        }
        self.commands = [shlex.join(["mosaic-secure", *given]) for given in self._arguments.values()]
        self._children = {
            name: Child("cli", given, place / "logs" / f"{name}.log")
            for name, given in self._arguments.items()
        }

    @property
    def children(self) -> dict[str, Child]:
        """Process of each party, "server" among them."""
        return dict(self._children)

    def __enter__(self) -> LocalCluster:
        try:
            server, *parties = self._children.values()
            server.start()  # a node that comes before it is let in is turned away, and tries again later
            self._wait(lambda control: len(control.nodes()), "nodes are let in")
            for child in parties:
                child.start()
            self._wait(lambda control: len(control.online()), "nodes are there")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for child in self._children.values():
            child.ask_to_stop()
        for child in self._children.values():
            child.stop()

    def _wait(self, count: Callable[[Control], int], what: str) -> None:
        """Until `count` gives the number of parties.

        Raises:
            UserError: a process has ended, or it takes too long.
        """
        end = time.monotonic() + _START_SECONDS
        control = Control(self.port, self.place / SERVER / CA_CERTIFICATE)
        try:
            while True:
                for name, child in self._children.items():
                    if child.status is not None:
                        raise UserError(f"{name}: its process has ended; see {child.log}")
                try:
                    found = count(control)
                except UserError:  # the SuperLink is not there yet
                    found = 0
                if found >= len(self.parties):
                    self._told(f"{found} {what}")
                    return
                if time.monotonic() > end:
                    raise UserError(
                        f"{found} of {len(self.parties)} {what} after {_START_SECONDS:g} s; "
                        f"see {self.place / 'logs'}"
                    )
                time.sleep(_POLL_SECONDS)
        finally:
            control.close()
