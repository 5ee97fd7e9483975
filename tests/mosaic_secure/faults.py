"""A federation in this process whose parties die, come back, answer late or from an older copy of their home.

The server runs as it does between machines: it gathers who is there, and meets a grid on which replies may be
missing. Requests that are delivered are answered by the product's ClientApp.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Message

from mosaic_secure import __version__
from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.deployment.description import FederationDescription
from mosaic_secure.deployment.gathering import gather
from mosaic_secure.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from mosaic_secure.engine.local import CLIENT_APP, RunResult, Venue, train
from mosaic_secure.engine.parties import Federation, provision
from mosaic_secure.protocol.codec import ProtocolError, from_flower
from mosaic_secure.protocol.failures import CRASHED
from mosaic_secure.protocol.fields import Message as ProtocolMessage
from mosaic_secure.protocol.fields import field_specs
from mosaic_secure.protocol.messages import REQUESTS
from mosaic_secure.runs.verify import verify
from privacy.identity import SigningKey
from privacy.ledger_check import verify as verify_ledger

from .tiny import FINE_TUNED, TINY

FEWEST = 3
EVERYTHING = {
    **TINY,
    **FINE_TUNED,
    "clients.count": 4,
    "data.limit": 120,
    "partition.min_records": 2,
    "privacy.min_contributors": FEWEST,
}
RUNS: dict[str, dict[str, Any]] = {
    "local": {},
    "distributed": {"privacy.trust": "distributed", "privacy.allowed_dropouts": 1},
    "masked": {
        "privacy.trust": "distributed",
        "privacy.allowed_dropouts": 1,
        "privacy.pairwise_masks": True,
    },
}
How = Literal["dies", "restarts", "late", "stale", "wiped"]


def config_of(name: str, **changes: Any) -> RunConfig:
    """The tiny run of one of `RUNS`, with fields changed."""
    fields = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config("digits", {**EVERYTHING, **RUNS[name], **fields})


@dataclass(frozen=True)
class Exchange:
    """One exchange of a run: its stage, the kind of its requests, and which one of its name it is, from 1."""

    stage: str
    kind: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.stage}-{self.kind}" + (f"-{self.number}" if self.number > 1 else "")


@dataclass(frozen=True)
class Fault:
    """What happens to a party at an exchange.

    Attributes:
        how: "dies" (gets neither this request nor a later one), "restarts" (does not get this one), "late"
            (answers it, and that answer comes with its next one), "stale" (its home is what it
            was before the exchange that it answered last), "wiped" (what it was before the run).
    """

    party: str
    how: How
    at: Exchange


class Killed(BaseException):
    """The party at work in this process is killed. No `Exception`, so that no code of its own sees it."""


def class_of(request: Message) -> type[ProtocolMessage]:
    """Which of the protocol's requests a message carries."""
    return next(cls for cls in REQUESTS if cls.action == request.metadata.message_type)


class FaultyGrid(InProcessGrid):
    """The in-process grid with faults.

    Attributes:
        asked: exchange -> parties it went to, in order. unanswered: (exchange, party) without a reply in it.
        sent: as of the `Trial`.
    """

    def __init__(
        self,
        federation: Federation,
        description: FederationDescription,
        data_root: str | None,
        sent: dict[tuple[str, str, str], set[str]],
        faults: Sequence[Fault] = (),
    ) -> None:
        nodes = federation.node_configs(data_root)
        super().__init__(
            {FIRST_NODE_ID + place: node for place, node in enumerate(nodes)}, CLIENT_APP, workers=0
        )
        self._party = {FIRST_NODE_ID + place: str(node["party"]) for place, node in enumerate(nodes)}
        self._home, self._description = federation.home, description
        self._faults = {fault.party: fault for fault in faults}
        self._dead: set[str] = set()
        self._late: dict[str, Message] = {}
        self._times: Counter[tuple[str, str]] = Counter()
        self._copies = 0
        self._lost = 0
        self.asked: dict[Exchange, list[str]] = {}
        self.unanswered: list[tuple[Exchange, str]] = []
        self.sent = sent

    def node_keys(self) -> Mapping[int, bytes]:
        """As Flower's grid tells them between machines."""
        found = {}
        for node, party in self._party.items():
            key = load_ssh_public_key(self._description.find(party).node_key.encode())
            found[node] = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        exchange = self._exchange(asked[0])
        parties = [self._party[message.metadata.dst_node_id] for message in asked]
        self.asked[exchange] = parties
        late = [self._late.pop(party) for party in parties if party in self._late]
        found = list(late)
        for message, party in zip(asked, parties, strict=True):
            fault = self._faults.get(party)
            here = fault is not None and fault.at == exchange
            if party in self._dead or (here and fault.how in ("dies", "restarts")):
                if fault.how == "dies":
                    self._dead.add(party)
                self._lost += 1
                message.metadata.__dict__["_message_id"] = f"lost-{self._lost}"
                self.unanswered.append((exchange, party))
                continue
            if fault is not None and fault.how in ("stale", "wiped"):
                self._keep_copies(fault, here)
            (reply,) = super().send_and_receive([message], timeout=timeout)
            self._note(party, exchange, message, reply)
            if here and fault.how == "late":
                self.unanswered.append((exchange, party))
                self._late[party] = reply
            else:
                found.append(reply)
        return [*found, *late]  # before the answer that is meant, and after it

    def _exchange(self, message: Message) -> Exchange:
        name = message.metadata.group_id, class_of(message).__name__
        self._times[name] += 1
        return Exchange(*name, self._times[name])

    def _keep_copies(self, fault: Fault, here: bool) -> None:
        """Restore the home if it is time, and copy it as it is before this request."""
        home = self._home / fault.party
        if here:
            shutil.rmtree(home)
            shutil.copytree(self._home / (".first" if fault.how == "wiped" else ".last"), home)
        for copy in (".last", *(() if self._copies else (".first",))):
            shutil.rmtree(self._home / copy, ignore_errors=True)
            shutil.copytree(home, self._home / copy)
        self._copies += 1

    def _note(self, party: str, exchange: Exchange, message: Message, reply: Message) -> None:
        try:
            said = from_flower(class_of(message).reply, reply)
        except ProtocolError:  # a party that was killed
            self.unanswered.append((exchange, party))
            return
        if getattr(said, "code", "ok") != "ok":
            return
        for spec in field_specs(type(said)):
            value = getattr(said, spec.name)
            if value and spec.field_class in ("dp_release", "ciphertext", "sum"):
                arrays = value if isinstance(value, dict) else {"": value}
                body = repr([(name, bytes(arrays[name])) for name in sorted(arrays)]).encode()
                digest = hashlib.sha256(body).hexdigest()
                self.sent[party, exchange.stage, spec.name].add(digest)

    def _start(self, number: int) -> None:
        try:
            super()._start(number)
        except Killed:
            self._finish(number, CRASHED)


@dataclass
class Trial:
    """One federation in a folder, and one run of it.

    Attributes:
        name: of the run directory in `place`. description: of any federation of as many clients.
        sent: (party, stage, field) -> digests of what it released there, over all attempts.
        grid: of the last attempt. notes: what was said of progress.
    """

    place: Path
    config: RunConfig
    description: FederationDescription
    name: str = "run"
    sent: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    grid: FaultyGrid | None = None
    notes: list[str] = field(default_factory=list)

    def attempt(self, *faults: Fault, patience: float = 0.0) -> RunResult:
        """Begin the run, or go on with it."""
        federation = provision(self.config, self.place / "ledgers")
        parties = tuple(
            replace(party, identity=federation.roster[party.party]) for party in self.description.parties
        )
        description = replace(self.description, parties=parties)
        grid = FaultyGrid(federation, description, self.config.data.root, self.sent, faults)
        self.grid = grid

        def find() -> Any:
            return gather(
                grid,
                description,
                self.config.min_contributors,
                version=__version__,
                grace=0.0,
                patience=1.0,
                note=self.notes.append,
            )

        return train(
            self.config,
            out=self.run,
            resume=(self.run / "manifest.json").exists(),
            progress=lambda progress: self.notes.append(progress.note or ""),
            venue=Venue(grid, federation.roster, find, patience),
        )

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.place / self.name

    @property
    def home(self) -> Path:
        """Where the parties live."""
        (home,) = (self.place / "ledgers").glob("digits-*")
        return home

    def left_out(self) -> set[tuple[str, str, str]]:
        """(stage, client, code) of everybody that the finished run says it went on without."""
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return {(line["on"], line["of"], line["value"]) for line in lines if line["metric"] == "left out"}

    def excerpts(self) -> set[str]:
        """Clients whose signed excerpts the finished run holds."""
        return set(json.loads((self.run / "ledgers.json").read_bytes())["excerpts"])

    def sums(self) -> dict[str, list[str]]:
        """Round -> contributors of the set that the authority has claimed for it."""
        return {path.parent.name: json.loads(path.read_bytes())["contributors"] for path in self._sets()}

    def check_moment(self) -> None:
        """What must hold at any moment: ledgers verify, each release is charged and made once, no sum has too
        few contributors."""
        for client in self.config.client_ids:
            home = self.home / client
            if not (home / "ledger.jsonl").exists():
                continue
            report = verify_ledger(home, SigningKey.load(home / "identity.key").public)
            assert report.problems == (), (client, report.problems)
            charged = Counter(self._charged(home))
            assert set(charged.values()) <= {1}, (client, charged)
            made = {(path.parent.name, path.stem) for path in home.glob("releases/*/*.bin")}
            assert made <= charged.keys(), (client, made - charged.keys())
        assert all(len(digests) == 1 for digests in self.sent.values()), "a release was sent in two versions"
        for round_id, contributors in self.sums().items():
            assert len(set(contributors)) >= self.config.min_contributors, round_id

    def check_end(self) -> None:
        """What must hold at the end besides: the run is sealed and verifies, the secret key is gone."""
        self.check_moment()
        report = verify(self.run)
        assert report.passed, report.problems
        assert not list(self.home.glob("authority/keys/*/secret.ctx"))

    def _sets(self) -> Iterator[Path]:
        return self.home.glob("authority/sums/*/*/set.json")

    def _charged(self, home: Path) -> Iterator[tuple[str, str]]:
        for line in (home / "ledger.jsonl").read_bytes().splitlines():
            entry = json.loads(line)
            if entry["kind"] == "release":
                body = entry["body"]
                yield body["run_id"], f"{body['release']}-{body['round']}"


__all__ = ["FEWEST", "RUNS", "Exchange", "Fault", "FaultyGrid", "How", "Killed", "Trial", "config_of"]
