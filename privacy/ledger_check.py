"""Checks of a ledger that need neither its lock nor its key: what anyone can verify from the files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.accounting import event_to_dict
from privacy.canonical import canonical_json
from privacy.errors import LedgerDamaged, LedgerError, LedgerRollback
from privacy.heads import Anchor, Head
from privacy.identity import verify as verify_signature
from privacy.ledger_format import Entry, parse_chain
from privacy.ledger_state import LedgerState, RunState, RunSummary

LEDGER_FILE = "ledger.jsonl"
ANCHOR_FILE = "anchor.json"
_SCHEMA_VERSION = 1
_EXCERPT_PURPOSE = "mosaic-secure ledger excerpt 1"


@dataclass(frozen=True)
class LedgerReport:
    """What `verify` found. `problems` is empty for a sound ledger; `notes` are no damage. Of a damaged ledger
    nothing but the problems is known."""

    entries: int
    head: Head | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    population: str | None
    party: str | None
    public: bytes | None
    runs: tuple[RunSummary, ...]
    lifetime_epsilon: float
    lifetime_delta: float


def verify(path: str | Path, public: bytes | None = None) -> LedgerReport:
    """Check a ledger file without lock or key: every line, the chain, every signature, and the stored anchor.

    Args:
        path: of ledger.jsonl, or of the directory that holds it.
        public: the owner's 32-byte public key; without it the one in the first line is taken, which finds
            accidents but not a ledger that somebody wrote anew.

    Raises:
        LedgerError: the file cannot be read.
    """
    file = Path(path) / LEDGER_FILE if Path(path).is_dir() else Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LedgerError(f"ledger {file}: cannot be read ({error.strerror})") from error
    notes: list[str] = []
    try:
        chain = parse_chain(data)
        state, last = replay(chain.entries)
        if state.owner is None:
            raise LedgerDamaged("line 1: is missing; the ledger is empty")
        owner = bytes.fromhex(state.owner["public"])
        if public is not None and owner != public:
            raise LedgerDamaged("line 1: the ledger belongs to another public key")
        for number, entry in enumerate(chain.entries, start=1):
            if not entry.head.is_signed_by(owner):
                raise LedgerDamaged(f"line {number}: its signature is not of the ledger's owner")
        if chain.tail:
            notes.append(f"line {len(chain.entries) + 1}: incomplete, left by a crash or being written now")
        anchor = read_anchor(file.parent)
        if anchor is None:
            notes.append("no anchor of a key authority: a rollback of this ledger is not detected")
        else:
            if anchor.public != owner:
                raise LedgerError(f"{ANCHOR_FILE}: is of another ledger")
            check_contains(chain.entries, anchor)
    except (LedgerError, ValueError) as error:
        return LedgerReport(0, None, (str(error),), tuple(notes), None, None, None, (), 0.0, 0.0)
    runs = tuple(run.summary for run in state.runs.values())
    names = state.owner["population"], state.owner["party"]
    return LedgerReport(
        len(chain.entries), last.head, (), tuple(notes), *names, owner, runs, *state.lifetime()
    )


def verify_excerpt(excerpt: Mapping[str, Any], public: bytes) -> bool:
    """Whether the holder of `public` (32 bytes) signed this excerpt as it stands."""
    body = {name: value for name, value in excerpt.items() if name != "signature"}
    try:
        signature = bytes.fromhex(excerpt["signature"])
        return verify_signature(public, signature, excerpt_message(body))
    except (KeyError, TypeError, ValueError):
        return False


def read_anchor(home: Path) -> Anchor | None:
    """The anchor kept beside a ledger; raises LedgerDamaged if the file does not hold an authentic one."""
    path = home / ANCHOR_FILE
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LedgerDamaged(f"{ANCHOR_FILE}: cannot be read as JSON") from error
    try:
        anchor = Anchor.from_dict(data)
    except (LedgerError, AttributeError) as error:
        raise LedgerDamaged(f"{ANCHOR_FILE}: {error}") from error
    if not anchor.is_authentic:
        raise LedgerDamaged(f"{ANCHOR_FILE}: its signature does not verify")
    return anchor


def replay(entries: tuple[Entry, ...]) -> tuple[LedgerState, Entry | None]:
    """The state after these entries, and the last of them; raises LedgerDamaged naming the line."""
    state = LedgerState()
    for entry in entries:
        if (entry.kind == "open") != (entry.sequence == 0):
            raise LedgerDamaged(f"line {entry.sequence + 1}: a ledger is opened by its first line, and once")
        state.apply(entry)
    return state, entries[-1] if entries else None


def check_contains(entries: tuple[Entry, ...], anchor: Anchor) -> None:
    """Raise LedgerRollback unless the anchored entry is among `entries`."""
    if len(entries) <= anchor.sequence:
        raise LedgerRollback(
            f"ledger rolled back: it ends at entry {len(entries) - 1}, the authority saw {anchor.sequence}"
        )
    if entries[anchor.sequence].digest != anchor.digest:
        raise LedgerRollback(f"ledger rolled back: entry {anchor.sequence} is not what the authority saw")


def excerpt_body(owner: Mapping[str, str], run: RunState, head: Head, *, anchored: bool) -> dict[str, Any]:
    """What an excerpt of one run says, before it is signed; JSON values.

    Args:
        owner: "population", "party" and "public" (hex) of the ledger. anchored: whether it has an anchor.
    """
    summary = run.summary
    return {
        "schema_version": _SCHEMA_VERSION,
        **{name: owner[name] for name in ("party", "population", "public")},
        "run_id": run.run_id,
        "config_hash": run.config_hash,
        "plan": run.plan.to_dict(),
        "terms": {n: v for n, v in run.terms.items() if not n.startswith("max_")},
        "charged_epsilon": "inf" if math.isinf(summary.charged_epsilon) else summary.charged_epsilon,
        "delta": summary.delta,
        "releases": [
            {"release": r.name, "round": r.round, "event": event_to_dict(r.event), "sha256": r.output}
            for r in run.releases.values()
        ],
        "sealed": run.sealed,
        "rollback_detected": anchored,
        "head": head.to_dict(),
    }


def excerpt_message(body: Mapping[str, Any]) -> bytes:
    """The bytes that the owner of a ledger signs for an excerpt."""
    return canonical_json({"excerpt": body, "purpose": _EXCERPT_PURPOSE})
