"""What the entries of a ledger add up to: runs, their releases, their cost; and which step may follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privacy.accounting import Event, GaussianEvent, SubsampledGaussianEvent, event_from_dict
from privacy.budget import BudgetPlan, PlannedRelease
from privacy.errors import BudgetError, LedgerDamaged, LedgerError, PrivacyError, ReleaseConflict
from privacy.ledger_format import Entry

_RELATIVE = 1e-9  # two floats that say the same after a journey through JSON


@dataclass(frozen=True)
class ReleaseRecord:
    """A release that was charged: what it hashed (keyed), its mechanism, the commitment to its secret, and,
    once its bytes were stored, their SHA-256."""

    name: str
    round: int
    inputs: str
    event: Event
    secret_commitment: str
    output: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """One run in a ledger.

    `epsilon` and `delta` are the plan's, charged whole at the first release; `releases` counts the rounds
    made of each planned release, `events` are their mechanisms, in order; `enrolled` is the time (UTC).
    """

    run_id: str
    config_hash: str
    enrolled: str
    epsilon: float
    delta: float
    releases: Mapping[str, int]
    events: tuple[Event, ...]
    sealed: bool
    insecure_noise: bool

    @property
    def is_charged(self) -> bool:
        """Whether at least one release was made, so that the run counts against the lifetime budget."""
        return any(self.releases.values())

    @property
    def charged_epsilon(self) -> float:
        """What the run adds to the lifetime epsilon: infinity where noise came from a seed, as that
        guarantees nothing."""
        if not self.is_charged:
            return 0.0
        return math.inf if self.insecure_noise else self.epsilon


@dataclass
class RunState:
    """One run while the ledger is read or written."""

    run_id: str
    config_hash: str
    enrolled: str
    plan: BudgetPlan
    terms: dict[str, Any]
    releases: dict[tuple[str, int], ReleaseRecord] = field(default_factory=dict)
    sealed: bool = False

    @property
    def summary(self) -> RunSummary:
        made = {planned.name: 0 for planned in self.plan.releases}
        for name, _ in self.releases:
            made[name] += 1
        insecure = bool(self.terms["insecure_noise"])
        return RunSummary(
            self.run_id,
            self.config_hash,
            self.enrolled,
            self.plan.epsilon,
            self.plan.delta,
            made,
            tuple(record.event for record in self.releases.values()),
            self.sealed,
            insecure,
        )

    @property
    def cost(self) -> float:
        """The epsilon that the run is charged once it has made a release."""
        return math.inf if self.terms["insecure_noise"] else self.plan.epsilon

    def check_release(self, name: str, round: int, event: Event) -> None:
        """Refuse a release that is not planned, or not with this mechanism, or not any more."""
        if self.sealed:
            raise LedgerError(f"run {self.run_id}: is sealed and makes no further release")
        planned = next((p for p in self.plan.releases if p.name == name), None)
        if planned is None:
            raise BudgetError(f"release {name!r}: is not in the plan of run {self.run_id}")
        if isinstance(round, bool) or not isinstance(round, int) or not 0 <= round < planned.rounds:
            raise BudgetError(
                f"release {name!r}: round {round!r} is not planned; rounds are 0 to {planned.rounds - 1}"
            )
        if (name, round) in self.releases:
            raise ReleaseConflict(f"release {name!r} round {round} of run {self.run_id}: was made")
        earlier = [record.event for record in self.releases.values() if record.name == name]
        _check_event(planned, event, earlier)


def check_caps(
    population: str,
    run_id: str,
    spent: tuple[float, float],
    cost: tuple[float, float],
    caps: tuple[float, float],
) -> None:
    """Refuse a run whose cost would lift what a population has spent above its lifetime caps.

    Args:
        spent, cost, caps: each (epsilon, delta); `spent` without the run itself.

    Raises:
        BudgetError: naming which of the two does not suffice.
    """
    for name, used, needed, cap in zip(("epsilon", "delta"), spent, cost, caps, strict=True):
        if used + needed > cap * (1 + _RELATIVE):
            raise BudgetError(
                f"budget already spent: population {population} has used {name} {used:g} of {cap:g}, "
                f"and run {run_id} needs {needed:g}"
            )


class LedgerState:
    """The runs of a ledger after some entries. The caller has checked that the entries form a chain."""

    def __init__(self) -> None:
        self.owner: dict[str, Any] | None = None
        self.runs: dict[str, RunState] = {}

    def apply(self, entry: Entry) -> None:
        """Follow one entry; raises LedgerDamaged if it cannot have been written by this program."""
        try:
            getattr(self, f"_apply_{entry.kind}")(entry, entry.body)
        except (KeyError, TypeError, AttributeError, PrivacyError) as error:
            raise LedgerDamaged(f"line {entry.sequence + 1}: its content makes no sense ({error})") from error

    def run(self, run_id: str) -> RunState:
        """The state of an enrolled run; raises LedgerError for any other."""
        try:
            return self.runs[run_id]
        except KeyError:
            raise LedgerError(f"run {run_id}: is not enrolled in this ledger") from None

    def lifetime(self, besides: str | None = None) -> tuple[float, float]:
        """(epsilon, delta) of all charged runs, added up; without the run `besides`."""
        charged = [
            run for run in self.runs.values() if run.releases and run.run_id != besides
        ]  # basic composition across runs: Dwork and Roth 2014, theorem 3.16
        return math.fsum(run.cost for run in charged), math.fsum(run.plan.delta for run in charged)

    def check_lifetime(self, run_id: str, cost: float, delta: float, terms: Mapping[str, Any]) -> None:
        """Refuse a run that would lift the lifetime spending above the caps in `terms`."""
        population = self.owner["population"] if self.owner else ""
        cap, delta_cap = float(terms["max_epsilon_lifetime"]), float(terms["max_delta_lifetime"])
        check_caps(population, run_id, self.lifetime(besides=run_id), (cost, delta), (cap, delta_cap))

    def _apply_open(self, entry: Entry, body: Mapping[str, Any]) -> None:
        texts = all(isinstance(body[name], str) for name in ("population", "party", "public"))
        if entry.sequence != 0 or not texts:
            raise LedgerDamaged(f"line {entry.sequence + 1}: a ledger is opened once, by its first line")
        self.owner = dict(body)

    def _apply_enrol(self, entry: Entry, body: Mapping[str, Any]) -> None:
        plan = BudgetPlan.from_dict(body["plan"])
        terms = dict(body["terms"])
        if not {"insecure_noise", "max_epsilon_lifetime", "max_delta_lifetime"} <= set(terms):
            raise LedgerError("an enrolment lacks its terms")
        known = self.runs.get(body["run_id"])
        if known is None:
            self.runs[body["run_id"]] = RunState(body["run_id"], body["config_hash"], entry.time, plan, terms)
        elif known.plan == plan:
            known.terms = terms
        else:
            raise LedgerError("a run enrols again with another plan")

    def _apply_release(self, entry: Entry, body: Mapping[str, Any]) -> None:
        run = self.runs[body["run_id"]]
        event = event_from_dict(body["event"])
        run.check_release(body["release"], body["round"], event)
        run.releases[body["release"], body["round"]] = ReleaseRecord(
            body["release"], body["round"], body["inputs"], event, body["secret"]
        )

    def _apply_output(self, entry: Entry, body: Mapping[str, Any]) -> None:
        releases = self.runs[body["run_id"]].releases
        made = releases[body["release"], body["round"]]
        if made.output is not None:
            raise LedgerError("a release has two outputs")
        releases[made.name, made.round] = ReleaseRecord(
            made.name, made.round, made.inputs, made.event, made.secret_commitment, body["sha256"]
        )

    def _apply_seal(self, entry: Entry, body: Mapping[str, Any]) -> None:
        self.runs[body["run_id"]].sealed = True

    def _apply_healed(self, entry: Entry, body: Mapping[str, Any]) -> None:
        """An incomplete line was cut off: no release came of it."""


def _check_event(planned: PlannedRelease, event: Event, earlier: list[Event]) -> None:
    """The event must be the planned mechanism, and all rounds together no more of it than was planned."""
    wrong = None
    if planned.kind == "gaussian":
        if not isinstance(event, GaussianEvent):
            wrong = "is not a Gaussian mechanism"
        elif sum(e.count for e in [*earlier, event]) > planned.rounds:
            wrong = f"makes more than the {planned.rounds} draws planned"
    elif not isinstance(event, SubsampledGaussianEvent):
        wrong = "is not a DP-SGD mechanism"
    elif not math.isclose(event.sample_rate, planned.sample_rate, rel_tol=_RELATIVE):
        wrong = f"samples at rate {event.sample_rate:g}, planned {planned.sample_rate:g}"
    elif sum(e.steps for e in [*earlier, event]) > planned.steps:
        wrong = f"makes more than the {planned.steps} steps planned"
    if wrong is None and not event.noise_multiplier >= planned.noise_multiplier * (1 - _RELATIVE):
        wrong = f"has noise multiplier {event.noise_multiplier:g}, planned {planned.noise_multiplier:g}"
    if wrong is not None:
        raise BudgetError(f"release {planned.name!r}: {wrong}")
