"""What the server saw of a sealed run: its messages replayed against the trust map, the keys and the ledgers.

The message log is the server's own word. Ledger excerpts are signed by the clients; the keys that they are
checked with stand in the excerpts themselves, so a check finds what was changed afterwards, and not a server
that made up clients of its own. Whose keys they are, the roster of the federation says.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.protocol.log import SCHEMA_VERSION, walk
from mosaic_secure.runs.directory import RunDirectory
from privacy.ledger_check import verify_excerpt

__all__ = ["Check", "Received", "check_server_view", "what_was_received"]

MESSAGES = "messages.jsonl"


@dataclass(frozen=True)
class Check:
    """One question, and its answer.

    Attributes:
        name: short, for tables. passed: None where the run has nothing to ask about.
        found: one sentence that says what was looked at and what it showed.
    """

    name: str
    passed: bool | None
    found: str


def check_server_view(run: RunDirectory, others: Sequence[Path] = ()) -> tuple[Check, ...]:
    """All checks of one sealed run.

    Args:
        run: sealed.
        others: directories of other runs, whose keys must be other keys.

    Raises:
        UserError: the run is not sealed, or its log or ledgers cannot be read.
    """
    if not run.sealed:
        raise UserError(f"{run.path}: is not sealed; finish it with train --resume --out")
    log = _Log(run.read_bytes(MESSAGES), str(run.path / MESSAGES))
    rejected = _rejected(run)
    excerpts = run.read_json("ledgers.json")["excerpts"]
    fewest = int(run.read_json("privacy.json")["min_contributors"])
    return (
        _trust_map(run.path / MESSAGES),
        _contributors(log, fewest, rejected),
        _decrypted_once(log),
        _one_key(log),
        _fresh_key(log, run, others),
        _signed(excerpts, run.run_id),
        _in_the_ledger(log, excerpts, rejected),
        _no_more_than_planned(excerpts),
    )


@dataclass(frozen=True)
class Received:
    """What one role got from another in a run, by the class of the fields.

    Attributes:
        role, source: who got it, and from whom.
        kind: class of the fields, as the trust map names it.
        fields: names of the fields that held anything, sorted. messages: how many messages. bytes: in all.
    """

    role: str
    source: str
    kind: str
    fields: tuple[str, ...]
    messages: int
    bytes: int


def what_was_received(run: RunDirectory) -> tuple[Received, ...]:
    """The trust map as it happened: every class of field that reached a role, and how much of it.

    Raises:
        UserError: as of `check_server_view`.
    """
    log = _Log(run.read_bytes(MESSAGES), str(run.path / MESSAGES))
    names: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    messages: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    for line in log.lines:
        told: dict[str, int] = defaultdict(int)
        for field in line["fields"].values():
            if field["bytes"]:
                told[field["class"]] += field["bytes"]
                names[line["dst_role"], line["src_role"], field["class"]].add(field["name"])
        for kind, size in told.items():
            key = (line["dst_role"], line["src_role"], kind)
            messages[key] += 1
            sizes[key] += size
    return tuple(
        Received(*key, tuple(sorted(names[key])), messages[key], sizes[key]) for key in sorted(messages)
    )


def _rejected(run: RunDirectory) -> set[tuple[str, str]]:
    """(round, client) of contributions that came and were left out of the sum."""
    rows = (json.loads(line) for line in run.read_bytes("metrics.jsonl").splitlines())
    return {(row["on"], row["of"]) for row in rows if row["metric"] == "left out"}


class _Log:
    """The messages of a run by kind."""

    def __init__(self, data: bytes, where: str) -> None:
        try:
            lines = [json.loads(line) for line in data.decode("utf-8").splitlines()]
            versions = {line["schema_version"] for line in lines}
            self.lines = [line for line in lines if "message" in line]
            for line in self.lines:
                line["fields"] = {field["name"]: field for field in line["fields"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where}: cannot be read as a message log") from error
        if not versions <= {SCHEMA_VERSION}:
            raise UserError(f"{where}: is of another version of mosaic-secure; audit it with that one")

    def of(self, message: str) -> Iterator[Mapping[str, Any]]:
        return (line for line in self.lines if line["message"] == message)


def _trust_map(path: Path) -> Check:
    report = walk(path)
    said = f"{report.messages} messages with {report.fields} fields were replayed against the trust map"
    if report.problems:
        return Check("trust map", False, f"{said}: {report.problems[0]}")
    return Check("trust map", True, f"{said}; no field reached a role that must not see it")


def _contributors(log: _Log, fewest: int, rejected: set[tuple[str, str]]) -> Check:
    """How many distinct clients contributed to each sum that was decrypted."""
    sent: dict[str, set[str]] = defaultdict(set)
    for reply in log.of("PrototypeReply"):
        if reply["fields"]["contribution"]["bytes"] and (reply["stage"], reply["src"]) not in rejected:
            sent[reply["stage"]].add(reply["src"])
    decrypted = {reply["stage"] for reply in _sums(log)}
    if not decrypted:
        return Check("contributors", None, "the run has no encrypted sums")
    poor = sorted(stage for stage in decrypted if len(sent[stage]) < fewest)
    least = min(len(sent[stage]) for stage in decrypted)
    said = f"{len(decrypted)} sums were decrypted, each over contributions of at least {least} clients"
    if poor:
        return Check("contributors", False, f"{said}; the run needs {fewest}, and {poor[0]} has fewer")
    return Check("contributors", True, f"{said}; the run needs {fewest}")


def _decrypted_once(log: _Log) -> Check:
    """The same round may be asked for again after an interruption, and must then give the same sum."""
    sums: dict[str, set[str]] = defaultdict(set)
    for reply in _sums(log):
        sums[reply["stage"]].add(reply["fields"]["values"]["sha256"])
    if not sums:
        return Check("one sum a round", None, "the run has no encrypted sums")
    several = sorted(stage for stage, values in sums.items() if len(values) > 1)
    if several:
        first = several[0]
        return Check("one sum a round", False, f"round {first} was decrypted to {len(sums[first])} sums")
    return Check("one sum a round", True, f"each of {len(sums)} rounds has one sum, however often asked for")


def _one_key(log: _Log) -> Check:
    keys = {reply["fields"]["public_context"]["sha256"] for reply in log.of("AuthorityKey")}
    used = {asked["fields"]["public_context"]["sha256"] for asked in log.of("PrototypeRequest")}
    if not used:
        return Check("one key", None, "the run has no encrypted sums")
    if len(used) != 1 or not used <= keys:
        said = f"clients were sent {len(used)} public keys, the authority gave {len(keys)}"
        return Check("one key", False, said)
    return Check("one key", True, "all clients encrypted under the one key that the authority gave")


def _fresh_key(log: _Log, run: RunDirectory, others: Sequence[Path]) -> Check:
    mine = {reply["fields"]["public_context"]["sha256"] for reply in log.of("AuthorityKey")}
    looked, shared = 0, []
    for other in others:
        theirs = _keys_of(other, run.run_id)
        looked += theirs is not None
        if theirs is not None and mine & theirs:
            shared.append(other.name)
    if not mine or not looked:
        return Check("key of its own", None, "there is no other run to compare keys with")
    if shared:
        return Check("key of its own", False, f"run {shared[0]} has the same key; a key is for one run")
    return Check("key of its own", True, f"none of {looked} other runs has this key")


def _keys_of(path: Path, run_id: str) -> set[str] | None:
    """Public keys of another run; None for a copy of this one, and for what is no run that can be read."""
    try:
        other = RunDirectory.open(path)
        if other.run_id == run_id:
            return None
        log = _Log((path / MESSAGES).read_bytes(), str(path))
        return {reply["fields"]["public_context"]["sha256"] for reply in log.of("AuthorityKey")}
    except (OSError, UserError, KeyError):
        return None


def _signed(excerpts: Mapping[str, Any], run_id: str) -> Check:
    """Each excerpt against the signature of its owner, for this very run."""
    for client, excerpt in sorted(excerpts.items()):
        public = bytes.fromhex(str(excerpt.get("public", "")))
        if not verify_excerpt(excerpt, public):
            return Check("signed ledgers", False, f"the excerpt of {client} is not what its owner has signed")
        if (excerpt["run_id"], excerpt["party"]) != (run_id, client):
            return Check("signed ledgers", False, f"the excerpt of {client} is of another run or client")
    anchored = sum(bool(excerpt["rollback_detected"]) for excerpt in excerpts.values())
    said = f"{len(excerpts)} excerpts carry their owners' signatures; the key authority anchors {anchored}"
    return Check("signed ledgers", True, said)


def _in_the_ledger(log: _Log, excerpts: Mapping[str, Any], rejected: set[tuple[str, str]]) -> Check:
    """Each contribution that entered a sum against what its client's ledger has signed for."""
    entered = {
        client: {release["sha256"] for release in excerpt["releases"]} for client, excerpt in excerpts.items()
    }
    seen = missing = 0
    for reply in log.of("PrototypeReply"):
        client, field = reply["src"], reply["fields"]["contribution"]
        if field["bytes"] and (reply["stage"], client) not in rejected:
            seen += 1
            missing += field["sha256"] not in entered.get(client, set())
    if not seen:
        return Check("ledger entries", None, "no contribution reached the server")
    said = f"{seen} contributions entered sums"
    if missing:
        return Check("ledger entries", False, f"{said}; {missing} of them are in no ledger")
    return Check("ledger entries", True, f"{said}; each is in its client's ledger")


def _no_more_than_planned(excerpts: Mapping[str, Any]) -> Check:
    count = 0
    for client, excerpt in sorted(excerpts.items()):
        planned = {release["name"]: release["rounds"] for release in excerpt["plan"]["releases"]}
        made = Counter((release["release"], release["round"]) for release in excerpt["releases"])
        count += len(made)
        for (name, number), times in made.items():
            if times > 1 or number >= planned.get(name, 0):
                said = f"{client} made release {name}, round {number}, {times} times"
                return Check("planned releases", False, f"{said}; the plan has {planned.get(name, 0)} rounds")
    said = f"{count} releases of {len(excerpts)} clients, all of them planned, and each made once"
    return Check("planned releases", True, said)


def _sums(log: _Log) -> Iterator[Mapping[str, Any]]:
    return (reply for reply in log.of("DecryptReply") if reply["fields"]["values"]["bytes"])
