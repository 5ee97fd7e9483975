"""The message log of a run: what went where, by name, class, size and hash, never the content itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.protocol.codec import field_bytes
from mosaic_secure.protocol.fields import Message, field_specs
from mosaic_secure.protocol.messages import MESSAGES
from mosaic_secure.protocol.trust import check_flow, flow_problem

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Party:
    """One end of a message: its role (``server``, ``client`` or ``authority``) and its party id."""

    role: str
    name: str


SERVER = Party("server", "server")


class MessageLog:
    """Append-only ``messages.jsonl``. A message that the trust map forbids is refused, not written.

    A line that a crash left incomplete is dropped on opening; later lines go on from the last whole one.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._sequence = self._heal()

    def record(self, stage: str, message: Message, sender: Party, receiver: Party) -> None:
        """Write one message that is about to be sent, or that has just come.

        Raises:
            TrustError: if the trust map does not allow it.
        """
        check_flow(sender.role, receiver.role, message)
        fields = []
        for spec in field_specs(type(message)):
            data = field_bytes(getattr(message, spec.name))
            fields.append(
                {
                    "name": spec.name,
                    "class": spec.field_class,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
            )
        self._append(stage, sender, receiver, {"message": type(message).__name__, "fields": fields})

    def record_failure(
        self, stage: str, request: type[Message], sender: Party, receiver: Party, code: int
    ) -> None:
        """Write that ``sender`` answered a request with an error of this number instead of a reply."""
        self._append(stage, sender, receiver, {"failure": int(code), "request": request.__name__})

    def _append(self, stage: str, sender: Party, receiver: Party, rest: Mapping[str, Any]) -> None:
        line = {
            "schema_version": SCHEMA_VERSION,
            "sequence": self._sequence,
            "stage": stage,
            "src": sender.name,
            "src_role": sender.role,
            "dst": receiver.name,
            "dst_role": receiver.role,
            **rest,
        }
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as out:
            out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._sequence += 1

    def _heal(self) -> int:
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(self._path, whole)
        return data.count(b"\n")


@dataclass(frozen=True)
class WalkReport:
    """What a walk over a log found: how many messages and fields it read, and every problem in words."""

    messages: int
    fields: int
    problems: tuple[str, ...]


def walk(path: Path) -> WalkReport:
    """Check every line of a message log against the declared messages and the trust map, afresh.

    Nothing that the log says about itself is believed: roles, field names and classes must be those of the
    message's declaration, and the route must be allowed by the trust map.
    """
    problems: list[str] = []
    messages = fields = 0
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            problem = _line_problem(entry, number - 1)
            messages += 1
            fields += len(entry.get("fields", ()))
        except (ValueError, TypeError, KeyError, AttributeError):
            problem = "not a line of a message log"
        if problem is not None:
            problems.append(f"line {number}: {problem}")
    return WalkReport(messages, fields, tuple(problems))


def _line_problem(entry: Mapping[str, Any], sequence: int) -> str | None:
    if entry["schema_version"] != SCHEMA_VERSION or entry["sequence"] != sequence:
        return "wrong schema version or sequence number"
    if "failure" in entry:
        reply = MESSAGES[entry["request"]].reply
        return None if reply is None else flow_problem(reply, entry["src_role"], entry["dst_role"])
    message = MESSAGES.get(entry["message"])
    if message is None:
        return f"unknown message {entry['message']!r}"
    written = [(item["name"], item["class"]) for item in entry["fields"]]
    if written != [(spec.name, spec.field_class) for spec in field_specs(message)]:
        return f"{entry['message']}: the fields are not those that the message declares"
    return flow_problem(message, entry["src_role"], entry["dst_role"])
