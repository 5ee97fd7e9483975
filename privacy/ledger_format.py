"""The file format of a ledger: one canonical JSON line an entry, each chained to the line before and signed.

A line holds `body`, `kind`, `previous` (SHA-256 of the whole line before, "" for the first), `sequence` (from
0), `signature` and `time` (UTC). The digest of an entry is the SHA-256 of its content without the signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import LedgerDamaged
from privacy.heads import Head
from privacy.identity import SIGNATURE_BYTES, SigningKey

KINDS = frozenset({"open", "enrol", "release", "output", "seal", "healed"})
_FIELDS = {"body", "kind", "previous", "sequence", "signature", "time"}


@dataclass(frozen=True)
class Entry:
    """One line of a ledger."""

    sequence: int
    previous: str
    time: str
    kind: str
    body: Mapping[str, Any]
    signature: bytes

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content, without the signature."""
        return _digest(self.sequence, self.previous, self.time, self.kind, self.body)

    @property
    def head(self) -> Head:
        """This entry as the head of the ledger that ends with it."""
        return Head(self.sequence, self.digest, self.signature)

    @property
    def line(self) -> bytes:
        """The entry as it stands in the file, without the line end."""
        content = _content(self.sequence, self.previous, self.time, self.kind, self.body)
        return canonical_json({**content, "signature": self.signature.hex()})


@dataclass(frozen=True)
class Chain:
    """What a file of entries holds: the entries, and the bytes of an incomplete last line, if any.

    `unterminated` says that the last entry is complete but for its line end.
    """

    entries: tuple[Entry, ...]
    tail: bytes
    unterminated: bool


def sign_entry(key: SigningKey, last: Entry | None, time: str, kind: str, body: Mapping[str, Any]) -> Entry:
    """The entry that follows `last`, signed by the owner of the ledger."""
    sequence = 0 if last is None else last.sequence + 1
    previous = "" if last is None else line_hash(last.line)
    digest = _digest(sequence, previous, time, kind, body)
    return Entry(sequence, previous, time, kind, body, key.sign(Head.message(sequence, digest)))


def parse_chain(data: bytes) -> Chain:
    """Read a whole file and check the chain (not the signatures).

    A crash while a line is written leaves a last line without an end: it comes back as `tail`. Anything else
    that is not a chain of entries raises LedgerDamaged naming the line.
    """
    *lines, tail = data.split(b"\n")
    unterminated = False
    if tail and _is_closed(tail):  # whole, or damaged: never taken for a torn write
        lines.append(tail)
        tail = b""
        unterminated = True
    entries: list[Entry] = []
    previous = ""
    for number, line in enumerate(lines, start=1):
        entry = _parse_line(number, line)
        if entry.sequence != number - 1:
            raise LedgerDamaged(f"line {number}: entry {entry.sequence} stands where {number - 1} belongs")
        if entry.previous != previous:
            raise LedgerDamaged(f"line {number}: does not follow from the line before it")
        previous = line_hash(line)
        entries.append(entry)
    return Chain(tuple(entries), tail, unterminated)


def line_hash(line: bytes) -> str:
    """SHA-256 (hex) of a whole line, signature included."""
    return hashlib.sha256(line).hexdigest()


def _parse_line(number: int, line: bytes) -> Entry:
    try:
        data = parse_canonical(line)
    except ValueError as error:
        raise LedgerDamaged(f"line {number}: is not a ledger entry ({error})") from None
    signature = data.get("signature")
    texts = all(isinstance(data.get(name), str) for name in ("kind", "previous", "time", "signature"))
    if set(data) != _FIELDS or not texts:
        raise LedgerDamaged(f"line {number}: is not a ledger entry (wrong fields)")
    if type(data["sequence"]) is not int or not isinstance(data["body"], dict):
        raise LedgerDamaged(f"line {number}: is not a ledger entry (wrong fields)")
    if data["kind"] not in KINDS:
        raise LedgerDamaged(f"line {number}: has the unknown kind {str(data['kind'])[:20]!r}")
    try:
        raw = bytes.fromhex(str(signature))
    except ValueError:
        raw = b""
    if len(raw) != SIGNATURE_BYTES or raw.hex() != signature:
        raise LedgerDamaged(f"line {number}: its signature is malformed")
    return Entry(data["sequence"], data["previous"], data["time"], data["kind"], data["body"], raw)


def _is_closed(tail: bytes) -> bool:
    """Whether a last line without an end holds a whole JSON object: then it was not cut short by a crash."""
    try:
        json.JSONDecoder().raw_decode(tail.decode("latin-1"))
    except (ValueError, RecursionError):
        return False
    return True


def _content(sequence: int, previous: str, time: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"body": dict(body), "kind": kind, "previous": previous, "sequence": sequence, "time": time}


def _digest(sequence: int, previous: str, time: str, kind: str, body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(_content(sequence, previous, time, kind, body))).hexdigest()
