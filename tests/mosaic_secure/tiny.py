"""A whole run that takes about a second: 240 digits, three clients, a handful of steps of everything."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.main import main
from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.engine.inprocess import FIRST_NODE_ID, InProcessGrid

CLIENTS = ("client-0", "client-1", "client-2")
TINY: Mapping[str, Any] = {
    "data.limit": 240,
    "clients.count": 3,
    "clients.architectures": "mlp",
    "partition.kind": "iid",
    "partition.min_records": 5,
    "prototypes.dim": 32,
    "prototypes.image_size": 4,
    "prototypes.rounds": 0,
    "prototypes.gradient_share": 0.0,
    "classifier.steps": 4,
    "generator.steps": 3,
    "generator.warmup": 2,
    "generator.batch": 16,
    "generator.latent_dim": 4,
    "gate.steps": 4,
    "gate.batch": 32,
    "distill.steps": 6,
    "distill.batch": 32,
    "distill.synthetic_pool": 128,
    "engine.device": "cpu",
    "engine.workers": 0,
}

SWEEP = ("--epsilons", "1,4", "--seeds", "2")

FINE_TUNED: Mapping[str, Any] = {
    "fine_tune.rounds": 1,
    "fine_tune.steps": 3,
    "privacy.shares.prototypes": 0.5,
    "privacy.shares.fine_tune": 0.1,
}

SAMPLED: Mapping[str, Any] = {
    "sampler.enabled": True,
    "sampler.image_size": 4,
    "sampler.rank": 6,
    "privacy.shares.prototypes": 0.3,
    "privacy.shares.sampler": 0.3,
}


PRIVATE: Mapping[str, Any] = {
    "clients.count": 3,
    "data.class_names": "well,ill",
    "data.declared_records": 40,
    "data.population": "patients",
    "data.image_size": 8,
    "data.channels": 1,
    "prototypes.encoder": "fourier",
    "partition.kind": "given",
    "partition.min_records": 5,
}


def tiny_config(**changes: Any) -> RunConfig:
    """The tiny run with dotted fields changed (``privacy__epsilon=2``)."""
    return load_config("digits", {**TINY, **_dotted(changes)})


def tiny_options(**changes: Any) -> list[str]:
    """The same as options of the command line."""
    fields = {**TINY, **_dotted(changes)}
    return [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]


def _dotted(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in changes.items()}


def private_options(folder: Path) -> list[str]:
    """Options of a run on private images, which are made in `folder`."""
    import numpy as np
    from PIL import Image

    stream = np.random.default_rng(0)
    for client in ("north", "south", "west"):
        for name in ("well", "ill"):
            place = folder / "DATA" / client / name
            place.mkdir(parents=True)
            for index in range(20):
                pixels = stream.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    fields = {**TINY, **PRIVATE, "data.path": folder / "DATA"}
    fields.pop("data.limit")
    given = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    return ["--config", "folder", *given]


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on the last line of standard output."""
        return json.loads(self.out.rstrip("\n").rsplit("\n", 1)[-1])

    @property
    def refusal(self) -> str:
        """The one line of a refused command, beside lines of progress and warnings of the configuration."""
        lines = [line for line in self.err.splitlines() if not line.startswith(("[", "WARNING: "))]
        assert self.status == 2, (self.status, self.err)
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


def command(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return Outcome(status, out.getvalue(), err.getvalue())


def tiny_train(place: Path, *options: object, **changes: Any) -> Outcome:
    """``train`` with ``place/run`` and ``place/ledgers``."""
    places = ["--out", place / "run", "--ledger-dir", place / "ledgers"]
    return command("train", *tiny_options(**changes), *places, *options, "--json")


@dataclass(frozen=True)
class Passed:
    """One message as the engine moved it: its roles, which client or authority, and its bytes."""

    source: str
    target: str
    party: str
    data: bytes = field(repr=False)


@dataclass
class Wire:
    """Listens on the in-process engine: every byte that passes, and the secret key while it exists."""

    ledgers: Path
    passed: list[Passed] = field(default_factory=list)
    secret: bytes = b""
    public: bytes = b""

    def grid(self, *arguments: Any, **options: Any) -> InProcessGrid:
        """Takes the place of the engine's class."""
        return InProcessGrid(*arguments, **options | {"observer": self._hear})

    def _hear(self, kind: str, node_id: int, data: bytes) -> None:
        index = node_id - FIRST_NODE_ID
        role, party = ("client", CLIENTS[index]) if index < len(CLIENTS) else ("authority", "authority")
        ends = ("server", role) if kind == "request" else (role, "server")
        self.passed.append(Passed(*ends, party, bytes(data)))
        for file in () if self.secret else self.ledgers.glob("*/authority/keys/*/secret.ctx"):
            self.secret, self.public = file.read_bytes(), (file.parent / "public.ctx").read_bytes()

    @property
    def key_pieces(self) -> list[bytes]:
        """Pieces of what is in the secret context and not in the public one."""
        own = self.secret[len(self.public) :]
        return [own[at : at + 16] for at in range(200, len(own) - 16, 997)]
