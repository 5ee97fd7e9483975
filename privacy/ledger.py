"""A client's ledger: the durable, signed record of what it has spent, which refuses the overspending step.

An entry is on the disk before the call that makes it returns, so that nothing is released that is not
charged. One process at a time holds a ledger. A rolled-back copy of the file is recognised by an anchor, a
head that the key authority has counter-signed; without one (`anchor` is None) the ledger cannot tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from privacy.accounting import Event, event_to_dict
from privacy.canonical import canonical_json
from privacy.errors import LedgerDamaged, LedgerError, LedgerRollback
from privacy.heads import Anchor, Head
from privacy.identity import SigningKey
from privacy.ledger_check import (
    ANCHOR_FILE,
    LEDGER_FILE,
    LedgerReport,
    check_contains,
    excerpt_body,
    excerpt_message,
    read_anchor,
    replay,
    verify,
    verify_excerpt,
)
from privacy.ledger_file import LedgerFile
from privacy.ledger_format import Entry, parse_chain, sign_entry
from privacy.ledger_state import LedgerState, ReleaseRecord, RunSummary
from privacy.policy import check_name
from privacy.storage import write_durably

if TYPE_CHECKING:
    from privacy.budget import BudgetPlan
    from privacy.policy import ClientPolicy, Trust

__all__ = ["Ledger", "LedgerReport", "ReleaseRecord", "RunSummary", "verify", "verify_excerpt"]

RELEASES = "releases"
_SCHEMA_VERSION = 1


class Ledger:
    """The open ledger of one party and population; use it in a `with` statement or call `close`.

    Attributes:
        population, party: whose ledger it is.
        healed: what a crash had left of a last line and was cut off at opening, in words; else None.
        anchor: the newest stored anchor, or None, in which case a rollback is not detected.
    """

    def __init__(self, home: Path, key: SigningKey, file: LedgerFile) -> None:
        """Not for callers: see `open`."""
        self.home = home
        self._key = key
        self._file = file
        self._state = LedgerState()
        self._last: Entry | None = None
        self.healed: str | None = None
        self.anchor: Anchor | None = None
        self.population = ""
        self.party = ""

    @classmethod
    def open(
        cls,
        home: str | Path,
        population: str,
        key: SigningKey,
        *,
        party: str | None = None,
        wait_seconds: float = 10.0,
    ) -> Ledger:
        """Open the ledger under `home`, or begin a new one, and hold its lock until `close`.

        Args:
            home: directory of the party (created if missing, mode 0700).
            population: the policy's name of all data that may hold the same people; fixed by the first line.
            key: the party's identity; fixed by the first line.
            party: its id; by default the name of `home`. Fixed by the first line.
            wait_seconds: how long to wait for another process that holds the ledger.

        Raises:
            LedgerDamaged: a line is broken (named). An incomplete last line is no damage: it is cut off.
            LedgerRollback: the ledger is older than its stored anchor.
            LedgerError: another process holds it, or it belongs to another population, party or key.
        """
        folder = Path(home)
        ledger = cls(folder, key, LedgerFile(folder / LEDGER_FILE, wait_seconds))
        try:
            ledger._load(population, folder.name if party is None else party)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Give the ledger back; closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def head(self) -> Head:
        """The newest entry, signed."""
        if self._last is None:
            raise LedgerError("the ledger is empty")
        return self._last.head

    @property
    def public(self) -> bytes:
        """The 32-byte public key of the owner."""
        return self._key.public

    def runs(self) -> tuple[RunSummary, ...]:
        """All runs, in the order of their enrolment."""
        return tuple(run.summary for run in self._state.runs.values())

    def run(self, run_id: str) -> RunSummary:
        """One run; raises LedgerError if it is not enrolled."""
        return self._state.run(run_id).summary

    def release_record(self, run_id: str, release: str, round: int) -> ReleaseRecord | None:
        """What was recorded of a release, or None if it was not made; the run must be enrolled."""
        return self._state.run(run_id).releases.get((release, round))

    def lifetime_epsilon(self) -> float:
        """Sum of the epsilons of all runs that made a release; infinite if one took its noise from a seed."""
        return self._state.lifetime()[0]

    def lifetime_delta(self) -> float:
        """Sum of the deltas of all runs that made a release."""
        return self._state.lifetime()[1]

    def enrol(
        self,
        run_id: str,
        plan: BudgetPlan,
        config_hash: str,
        policy: ClientPolicy,
        *,
        trust: Trust = "local",
        min_contributors: int | None = None,
        honest_clients: int | None = None,
        colluding_clients: int = 1,
        insecure_noise: bool = False,
    ) -> None:
        """Accept a run, if policy and earlier spending allow it; nothing is spent yet.

        Enrolling again with the same plan and configuration changes nothing but the caps, which are those of
        the policy given last. The lifetime caps are checked here and again at the first release of the run.

        Args:
            run_id: 1 to 100 letters, digits, '.', '_', '-'.
            plan, config_hash: what the run will do; neither changes once it is enrolled.
            policy: the client's own rules; its population must be the ledger's.
            trust, min_contributors, honest_clients, colluding_clients, insecure_noise: see
                `ClientPolicy.check_plan`; min_contributors is the policy's own if None.

        Raises:
            BudgetError: the policy refuses the plan, or the budget is already spent.
            LedgerError: the run is enrolled with another plan or configuration, or is of another population.
        """
        check_name("run id", run_id)
        if policy.population != self.population:
            raise LedgerError(f"population {policy.population!r}: this ledger is of {self.population!r}")
        terms: dict[str, Any] = {
            "trust": trust,
            "min_contributors": policy.min_contributors if min_contributors is None else min_contributors,
            "honest_clients": honest_clients,
            "colluding_clients": colluding_clients,
            "insecure_noise": bool(insecure_noise),
        }
        known = self._state.runs.get(run_id)
        if known is not None:
            if known.plan != plan or known.config_hash != config_hash:
                raise LedgerError(f"run {run_id}: is enrolled with another plan or configuration")
            if any(known.terms[name] != value for name, value in terms.items()):
                raise LedgerError(f"run {run_id}: is enrolled under other terms of trust")
        policy.check_plan(plan, **terms)
        terms |= _caps(policy)
        cost = float("inf") if insecure_noise else plan.epsilon
        self._state.check_lifetime(run_id, cost, plan.delta, terms)
        if known is None or known.terms != terms:
            body = {"run_id": run_id, "config_hash": config_hash, "plan": plan.to_dict(), "terms": terms}
            self._append("enrol", body)

    def check_policy(self, run_id: str, policy: ClientPolicy) -> None:
        """Raise what `enrol` would now raise of an enrolled run; its epsilon is not composed again.

        A policy may have become stricter since the run was enrolled. Nothing is written.
        """
        if policy.population != self.population:
            raise LedgerError(f"population {policy.population!r}: this ledger is of {self.population!r}")
        run = self._state.run(run_id)
        policy.check_rules(run.plan, **{n: v for n, v in run.terms.items() if not n.startswith("max_")})
        self._state.check_lifetime(run_id, run.cost, run.plan.delta, _caps(policy))

    def check_release(self, run_id: str, release: str, round: int, event: Event) -> None:
        """Raise what `record` would raise for this release; nothing is written."""
        run = self._state.run(run_id)
        run.check_release(release, round, event)
        if not run.releases:
            self._state.check_lifetime(run_id, run.cost, run.plan.delta, run.terms)

    def record(
        self,
        run_id: str,
        release: str,
        round: int,
        inputs_digest: str,
        event: Event,
        secret_commitment: str,
    ) -> None:
        """Charge a release, durably, before it is made.

        Args:
            run_id, release, round: which release; rounds count from 0.
            inputs_digest: keyed hash of all inputs (hex); an unkeyed one would tell about the data.
            event: its mechanism, which must be the planned one.
            secret_commitment: SHA-256 of the secret that its noise derives from (hex).

        Raises:
            BudgetError: not planned (name, round, mechanism), or the lifetime budget was spent meanwhile.
            ReleaseConflict: this release was charged before.
            LedgerError: the run is not enrolled, or is sealed.
        """
        self.check_release(run_id, release, round, event)
        self._append(
            "release",
            {
                "run_id": run_id,
                "release": release,
                "round": round,
                "inputs": inputs_digest,
                "event": event_to_dict(event),
                "secret": secret_commitment,
            },
        )

    def record_output(self, run_id: str, release: str, round: int, sha256: str) -> None:
        """Note, once, the SHA-256 (hex) of the bytes that a charged release gave; only those may leave."""
        made = self.release_record(run_id, release, round)
        if made is None or made.output is not None:
            state = "was not charged" if made is None else "has its output already"
            raise LedgerError(f"release {release!r} round {round} of run {run_id}: {state}")
        self._append("output", {"run_id": run_id, "release": release, "round": round, "sha256": sha256})

    def seal_run(self, run_id: str) -> None:
        """End a run: it makes no release any more. Sealing twice does nothing."""
        if not self._state.run(run_id).sealed:
            self._append("seal", {"run_id": run_id})

    def check_anchor(self, anchor: Anchor, authority: bytes | None = None) -> None:
        """Compare this ledger with a counter-signed head, such as the newest one that the authority holds.

        Raises:
            LedgerError: the anchor is forged, of another ledger, or not of `authority` (32-byte public key).
            LedgerRollback: this ledger does not contain the anchored entry.
        """
        if not anchor.is_authentic or (authority is not None and anchor.authority != authority):
            raise LedgerError("ledger anchor: not signed by the key authority of the policy")
        if anchor.client != self.party or anchor.public != self.public:
            raise LedgerError(f"ledger anchor: is of {anchor.client}, this ledger is of {self.party}")
        check_contains(self._entries(), anchor)

    def store_anchor(self, anchor: Anchor, authority: bytes | None = None) -> None:
        """Check an anchor as `check_anchor` does and keep it durably, unless a newer one is kept already."""
        self.check_anchor(anchor, authority)
        if self.anchor is None or anchor.sequence > self.anchor.sequence:
            body = {"schema_version": _SCHEMA_VERSION, **anchor.to_dict()}
            write_durably(self.home / ANCHOR_FILE, canonical_json(body) + b"\n")
            self.anchor = anchor

    def excerpt(self, run_id: str) -> dict[str, Any]:
        """What may be shown of one run: plan, releases, cost and the ledger's head, signed; JSON values.

        Neither secrets nor hashes of inputs are in it, nor anything of other runs. See `verify_excerpt`.
        """
        owner = {"population": self.population, "party": self.party, "public": self.public.hex()}
        body = excerpt_body(owner, self._state.run(run_id), self.head, anchored=self.anchor is not None)
        return {**body, "signature": self._key.sign(excerpt_message(body)).hex()}

    def _load(self, population: str, party: str) -> None:
        path = self.home / LEDGER_FILE
        data = self._file.read()
        chain = parse_chain(data)
        if not chain.entries and any((self.home / name).exists() for name in (ANCHOR_FILE, RELEASES)):
            raise LedgerRollback(f"ledger {path}: is empty, but releases were made or anchored from here")
        self._state, self._last = replay(chain.entries)
        if self._state.owner is not None:
            owner = {"population": population, "party": party, "public": self.public.hex()}
            for field, value in owner.items():
                if self._state.owner[field] != value:
                    raise LedgerError(f"ledger {path}: is of {field} {self._state.owner[field]}, not {value}")
            if not self._last.head.is_signed_by(self.public):
                raise LedgerDamaged(f"line {len(chain.entries)}: its signature is not of the ledger's owner")
        self.population, self.party = check_name("population", population), check_name("party", party)
        self.anchor = read_anchor(self.home)
        if self.anchor is not None:
            self.check_anchor(self.anchor)
        if chain.unterminated:
            self._file.append(b"\n")
        if chain.tail:
            self._file.cut(len(data) - len(chain.tail))
            self.healed = f"an incomplete last line of {len(chain.tail)} bytes, left by a crash, was cut off"
        if self._state.owner is None:
            self._append(
                "open",
                {
                    "schema_version": _SCHEMA_VERSION,
                    "population": population,
                    "party": party,
                    "public": self.public.hex(),
                },
            )
        elif chain.tail:
            self._append("healed", {"bytes": len(chain.tail)})

    def _entries(self) -> tuple[Entry, ...]:
        return parse_chain(self._file.read()).entries

    def _append(self, kind: str, body: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        body = json.loads(canonical_json(body))  # what is applied now is what a reader will find
        entry = sign_entry(self._key, self._last, now, kind, body)
        self._file.append(entry.line + b"\n")
        self._state.apply(entry)
        self._last = entry


def _caps(policy: ClientPolicy) -> dict[str, float | str]:
    """The lifetime caps, as an enrolment notes them."""
    return {
        "max_epsilon_lifetime": _as_json(policy.max_epsilon_lifetime),
        "max_delta_lifetime": policy.max_delta_lifetime,
    }


def _as_json(value: float) -> float | str:
    return "inf" if value == float("inf") else value
