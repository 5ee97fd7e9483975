"""What `train --federation` asks of the server's process, and what that tells back: files in its own folder.

Nothing of it travels: what goes through Flower is the name of the request alone.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from privacy.canonical import canonical_json
from privacy.policy import check_name
from privacy.storage import make_private_directory, write_durably

__all__ = ["Outbox", "Request", "read_events"]

FOLDER = "requests"


@dataclass(frozen=True)
class Request:
    """One run that is asked for.

    Attributes:
        config: as `RunConfig.to_dict` gives it. out: the run directory, absolute.
        resume: whether `out` may hold a run that began. ablate: as `--ablate`.
    """

    config: dict[str, Any]
    out: str
    resume: bool
    ablate: bool

    def save(self, server: Path) -> str:
        """Keep it in the server's folder; returns its name."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        make_private_directory(server / FOLDER)
        write_durably(server / FOLDER / f"{name}.json", canonical_json(_with_words(asdict(self))))
        return name

    @classmethod
    def claim(cls, server: Path, name: str) -> Request | None:
        """Read it, to make the run that it asks for; None if that was done before.

        An order whose answer is lost is given again, and the SuperLink may have taken both.

        Raises:
            UserError: there is none of that name.
        """
        found = cls.load(server, name)
        try:
            os.close(
                os.open(server / FOLDER / f"{name}.claimed", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            )
        except FileExistsError:
            return None
        return found

    @classmethod
    def load(cls, server: Path, name: str) -> Request:
        """Read it; raises UserError when there is none of that name."""
        check_name("request", name)
        try:
            return cls(**json.loads((server / FOLDER / f"{name}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            raise UserError(f"request {name}: is not there or is damaged") from None


class Outbox:
    """Lines about a request: progress, and in the end a result or an error."""

    def __init__(self, server: Path, name: str) -> None:
        self._path = events_path(server, name)

    def tell(self, kind: str, content: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps({"kind": kind, **_with_words(dict(content))}, allow_nan=False) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as out:
            out.write(line)


def events_path(server: Path, name: str) -> Path:
    """Where the lines about a request are."""
    return server / FOLDER / f"{name}.events.jsonl"


def read_events(path: Path, seen: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines after the first `seen` bytes, and how many bytes there are then."""
    try:
        with path.open("rb") as file:
            file.seek(seen)
            data = file.read()
    except FileNotFoundError:
        return [], seen
    whole = data[: data.rfind(b"\n") + 1]
    return list(_parsed(whole)), seen + len(whole)


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        yield json.loads(line)


def _with_words(value: Any) -> Any:
    """Infinite numbers as the word that configuration and results use for them."""
    if isinstance(value, dict):
        return {name: _with_words(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_words(part) for part in value]
    return "inf" if isinstance(value, float) and value == float("inf") else value
