"""`join` and `authority`: a party of a federation. It keeps a SuperNode running and answers what comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mosaic_secure.deployment.answering import Answerer, NodeStuckError
from mosaic_secure.deployment.kits import Kit
from mosaic_secure.deployment.leash import Child
from mosaic_secure.deployment.machine import flower_environment, free_port
from mosaic_secure.deployment.material import CA_CERTIFICATE, NODE_KEY, RUNTIME_SECRET, read_secret
from mosaic_secure.deployment.supernode import BELL_VARIABLE, NODE_VARIABLE
from privacy.storage import write_durably

__all__ = ["PartyProcesses"]


class PartyProcesses:
    """The processes of one party on its own machine.

    Args:
        kit: the party's home. node_config: where its data lie.
        superlink: ``host:port`` of the server; that of the description when None.
        threads: compute threads. told: is called with a line about what happens.
    """

    def __init__(
        self,
        kit: Kit,
        node_config: Mapping[str, Any],
        superlink: str | None,
        threads: int,
        told: Callable[[str], None],
    ) -> None:
        write_durably(kit.path / CA_CERTIFICATE, kit.description.ca.encode("ascii"))
        self._kit, self._told = kit.path, told
        self._node_config = {**node_config, **_who(kit)}
        self._threads = threads
        self._superlink = superlink or kit.description.server
        self._secret = read_secret(kit.path / RUNTIME_SECRET)
        self._bell, self._ring = os.pipe()
        self._node: Child | None = None
        self._answerer: Answerer | None = None

    def start(self) -> None:
        """Start the SuperNode and the worker."""
        port = free_port()
        self._node = Child(
            "mosaic_secure.deployment.supernode",
            [
                *("--root-certificates", str(self._kit / CA_CERTIFICATE)),
                *("--superlink", self._superlink),
                *("--auth-supernode-private-key", str(self._kit / NODE_KEY)),
                *("--isolation", "process"),
                *("--superexec-auth-secret-file", str(self._kit / RUNTIME_SECRET)),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            self._kit / "logs" / "supernode.log",
            {
                **flower_environment(self._kit / "flower"),
                NODE_VARIABLE: str(self._kit / "node.id"),
                BELL_VARIABLE: str(self._ring),
            },
            [self._ring],
        )
        self._node.start()
        node = self._node
        self._answerer = Answerer(
            f"127.0.0.1:{port}",
            self._secret,
            self._node_config,
            self._threads,
            self._bell,
            self._told,
            lambda: node.pid is not None,
        )

    def step(self, stop: threading.Event) -> None:
        """Answer a message if there is one, keep up what should run; pauses a little."""
        if self._node is None or self._answerer is None:
            return
        if self._node.keep():
            self._told(f"the SuperNode ended; it is started again (see {self._node.log})")
        try:
            self._answerer.step(stop)
        except NodeStuckError:
            if not stop.is_set() and self._node.pid is not None:
                self._told("the SuperNode lost a message; it is started again")
                self._node.stop()

    def close(self) -> None:
        """End the processes; what was being answered is asked for again."""
        if self._answerer is not None:
            self._answerer.close()
        if self._node is not None:
            self._node.stop()
        for end in (self._bell, self._ring):
            os.close(end)


def _who(kit: Kit) -> dict[str, Any]:
    """Who answers here, as the app is told; no message can change it."""
    return {
        "role": kit.party.role,
        "party": kit.party.party,
        "home": str(kit.path.absolute()),
        "index": kit.party.index,
        "deployed": True,
    }
