"""The commands of docs/deploy.md, carried out on machines: from keys to parties that wait for a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..tiny import TINY
from .machines import Machines, Started
from .manual import FINGERPRINT, SERVER, Block, as_toml, block, run_file

AUTHORITY = "authority"
CLIENTS = ("client-0", "client-1", "client-2")
NAMES = ("server", AUTHORITY, *CLIENTS)
GOES_ON = {"serve": "listens at", "authority": "answers what comes from", "join": "answers what comes from"}
_ONCE = {"--dry-run", "--withdraw", "--rejoin"}
# Of these sections a tiny run changes nothing that the manual says.
_AS_TOLD = ("data", "clients", "partition")


def tiny_run(name: str, **more: Any) -> dict[str, Any]:
    """The manual's run of that name, made tiny; `more` are dotted fields of a run on private data."""
    values = run_file(name)
    public_alone = {"data.limit"} if more else set()
    for key, value in {**TINY, **more}.items():
        section, field = key.split(".")
        if key not in public_alone and not (section in _AS_TOLD and field in values[section]):
            values.setdefault(section, {})[field] = value
    return values


class CarriedOut:
    """A federation that was made by the manual, with everybody in it running.

    Args:
        machines: server, authority and clients. run: values of run.toml. join: place of the block by which
            clients start.
    """

    def __init__(self, machines: Machines, run: Mapping[str, Any], join: str) -> None:
        self.machines, self.going = machines, dict[str, Started]()
        self.fingerprint = ""
        for name in machines.names:
            (machines.folder(name) / "run.toml").write_text(as_toml(run), encoding="utf-8")
            machines.hand_over(machines.folder(name))
        each = "each client; here client-0"
        self.follow(block("server", 0), "server")
        self.follow(block("key authority", 0), AUTHORITY)
        self._at_each_client(block(each, 0))
        self.follow(block("server", 1), "server")
        self._read_out()
        self._take_offline()
        self.follow(block("key authority", 1), AUTHORITY)
        self._at_each_client(block(each, 1))
        self.follow(block("server", 2), "server")
        self.follow(block("key authority", 2), AUTHORITY)
        self._at_each_client(block(join, 2 if join == each else 0))

    def follow(self, given: Block, name: str) -> list[str]:
        """Do what a block says on a machine; what its commands printed."""
        said = []
        for words in given.commands:
            own = [self._own(word, name) for word in words]
            if own[0] == "scp":
                self._carry(name, own[1], own[2])
            elif own[0] == "mosaic-secure" and own[1] in GOES_ON and not _ONCE & set(own):
                self.going[name] = self.machines.start(name, own)
                self.going[name].until(GOES_ON[own[1]])
            else:
                done = self.machines.run(name, own)
                assert done.returncode == 0, f"{name}: {' '.join(own)}\n{done.stdout}{done.stderr}"
                said.append(done.stdout)
        return said

    def start_run(self, out: str, *options: str) -> Started:
        """Start the manual's `train`, into another directory and with more options."""
        words = [out if word == "runs/first" else word for word in block("server", 3).commands[0]]
        return self.machines.start("server", [*words, *options])

    def switch_off_and_on(self, name: str) -> None:
        """Kill all that runs on a machine, and start its `serve`, `authority` or `join` again."""
        words = self.going[name].words
        self.machines.switch_off(name)
        self.going[name] = self.machines.start(name, words)
        self.going[name].until(GOES_ON[words[1]])

    def verify(self, out: str) -> None:
        """As the manual says."""
        words = [out if word == "runs/first" else word for word in block("server", 3).commands[1]]
        done = self.machines.run("server", words)
        assert done.returncode == 0, done.stdout + done.stderr

    def contributors(self, out: str) -> list[str]:
        """Clients whose signed ledgers are with a run, sealed at its end."""
        run = self.machines.folder("server") / out
        return sorted(json.loads((run / "ledgers.json").read_bytes())["excerpts"])

    def _at_each_client(self, given: Block) -> None:
        for name in CLIENTS:
            self.follow(given, name)

    def _own(self, word: str, name: str) -> str:
        here = word.replace("client-0", name) if name in CLIENTS else word
        return here.replace(FINGERPRINT, self.fingerprint) if self.fingerprint else here

    def _read_out(self) -> None:
        """The founder reads the fingerprint out."""
        done = self.machines.run("server", ["mosaic-secure", "keys", "show", "federation", "--json"])
        self.fingerprint = json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])["fingerprint"]

    def _take_offline(self) -> None:
        federation = self.machines.folder("server") / "federation"
        shutil.move(federation / "ca.key", self.machines.place / "ca.key")

    def bring_back(self) -> None:
        """The CA's key, for `keys renew`."""
        federation = self.machines.folder("server") / "federation"
        self.machines.hand_over(Path(shutil.copy(self.machines.place / "ca.key", federation)))

    def _carry(self, name: str, source: str, target: str) -> None:
        """What scp does between these machines."""

        def place(text: str) -> Path:
            host, colon, path = text.rpartition(":")
            assert host in ("", SERVER)
            if colon:
                return self.machines.folder("server") / Path(path).relative_to("fl")
            return self.machines.folder(name) / path

        self.machines.hand_over(Path(shutil.copy(place(source), place(target))))
