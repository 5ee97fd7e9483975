"""What would leave a client in a run, and what its policy says to that: told before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mosaic_secure.client.leaving import LeavingMessage, leaving_messages
from mosaic_secure.client.rules import check_run, ledger_population, terms_of
from mosaic_secure.client.withdrawal import check_takes_part
from mosaic_secure.errors import UserError
from mosaic_secure.plan import ENCRYPTED
from mosaic_secure.protocol.messages import CODES
from privacy.accounting import compose_epsilon
from privacy.errors import LedgerDamaged, LedgerError, PrivacyError
from privacy.ledger_check import LEDGER_FILE, verify
from privacy.ledger_state import check_caps

if TYPE_CHECKING:
    from mosaic_secure.client.own_data import Places
    from mosaic_secure.client.session import ClientHome
    from mosaic_secure.plan import RunPlan
    from privacy.budget import PlannedRelease
    from privacy.ledger_check import LedgerReport
    from privacy.policy import ClientPolicy

__all__ = ["NEVER", "Disclosure", "Mechanism", "Spending", "disclose", "disclose_at"]

NEVER = (
    "records, or names of files and folders",
    "how many records there are, in all or of a class, and any other statistic without its noise",
    "losses, accuracies and gradients of single records",
    "hashes of the records, and the secrets that noise derives from",
    "the signing key, the policy, and what the ledger holds of other runs, beyond how many lines it has",
    "why a request was refused, beyond one fixed word",
)
"""What is in no message, whatever the server asks."""

_RUN_ID = "0" * 16


@dataclass(frozen=True)
class Mechanism:
    """How one release is protected.

    Attributes:
        kind: "Gaussian" (noise on clipped sums) or "DP-SGD". rounds: how often it is made.
        noise_multiplier: standard deviation over the clip, of the noise that the guarantee rests on.
        own_noise_multiplier: of the part that this client adds itself; less where clients share the noise.
        clip: most that one record can move it by (L2), before scaling to a grid.
        sample_rate, steps: of DP-SGD, steps over all rounds; None for a Gaussian.
        epsilon: of this release alone, all rounds of it, at the run's delta.
        encrypted: whether it is only ever decrypted as part of a sum.
    """

    release: str
    kind: str
    rounds: int
    noise_multiplier: float
    own_noise_multiplier: float
    clip: float
    sample_rate: float | None
    steps: int | None
    epsilon: float
    encrypted: bool


@dataclass(frozen=True)
class Spending:
    """The population's ledger, without this run and with it, and the caps of the policy."""

    epsilon_before: float
    epsilon_after: float
    max_epsilon: float
    delta_before: float
    delta_after: float
    max_delta: float


@dataclass(frozen=True)
class Disclosure:
    """Exactly what would leave one client in one run.

    Attributes:
        refusal: the line with which the client's own rules refuse the run; None if they accept it. Then of
            all `messages` only the first two would leave, the second with a code in place of its content.
        messages: in order, each once. Asked for again, the very same bytes leave again.
        epsilon, delta: of everything together.
        codes: the words that may travel in place of any content.
        never: what is in no message.
    """

    party: str
    population: str
    visibility: str
    dataset: str
    config_hash: str
    trust: str
    refusal: str | None
    messages: tuple[LeavingMessage, ...]
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    delta: float
    spending: Spending
    codes: tuple[str, ...]
    never: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether the client's rules accept the run."""
        return self.refusal is None

    @property
    def bytes(self) -> int:
        """Of all messages together, at most."""
        return sum(message.bytes for message in self.messages)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; infinite numbers are left to the writer."""
        record = asdict(self)
        for written, message in zip(record["messages"], self.messages, strict=True):
            written |= {"bytes": message.bytes, "is_bound": message.is_bound}
        return {"accepted": self.accepted, "bytes": self.bytes, **record}


def disclose(
    policy: ClientPolicy,
    plan: RunPlan,
    index: int,
    ledger: LedgerReport | None = None,
    *,
    run_id: str | None = None,
    roster: Mapping[str, str] | None = None,
) -> Disclosure:
    """Describe what a run would take from a client. Nothing is read, charged or written.

    Args:
        policy: of the client. plan: of the run, from `build_plan` of its configuration or as it was sent.
        index: position of the client in the run.
        ledger: what `privacy.ledger.verify` says of the client's ledger; None for one not begun.
        run_id: of the run, where it is known.
        roster: client id -> public key (hex) as the server tells it; the policy's own if None.
    """
    run_id = run_id or _RUN_ID
    others = [run for run in ledger.runs if run.is_charged and run.run_id != run_id] if ledger else []
    before = math.fsum(run.charged_epsilon for run in others), math.fsum(run.delta for run in others)
    insecure = plan.config.privacy.insecure_reproducible_noise
    cost = math.inf if insecure else plan.budget.epsilon, plan.budget.delta
    caps = policy.max_epsilon_lifetime, policy.max_delta_lifetime
    refusal = None
    try:
        check_run(policy, plan, index, policy.roster if roster is None else roster)
        _check_ledger(policy, ledger)
        policy.check_plan(plan.budget, **terms_of(plan.config))
        check_caps(policy.population, run_id, before, cost, caps)
    except PrivacyError as error:
        refusal = str(error)
    entries = ledger.entries if ledger else 0
    return Disclosure(
        party=plan.config.client_ids[index],
        population=ledger_population(plan.config),
        visibility=plan.info.visibility,
        dataset=plan.config.data.dataset,
        config_hash=plan.config_hash,
        trust=plan.config.privacy.trust,
        refusal=refusal,
        messages=leaving_messages(plan, index, run_id=run_id, entries=entries, population=policy.population),
        mechanisms=tuple(_mechanism(plan, release) for release in plan.budget.releases),
        epsilon=cost[0],
        delta=cost[1],
        spending=Spending(
            *(before[0], before[0] + cost[0], caps[0]),
            *(before[1], before[1] + cost[1], caps[1]),
        ),
        codes=tuple(code for code in CODES if code != "ok"),
        never=NEVER,
    )


def disclose_at(
    home: ClientHome,
    plan: RunPlan,
    index: int,
    *,
    run_id: str | None = None,
    roster: Mapping[str, str] | None = None,
    places: Places | None = None,
    policy: ClientPolicy | None = None,
) -> Disclosure:
    """`disclose` by the policy and the ledger of a client's home. A withdrawal refuses too, and so do missing
    records where `places` are given. Nothing is locked or written.

    Args:
        policy: to try out in place of the home's own.

    Raises:
        PolicyError: the policy cannot be read.
    """
    from dataclasses import replace

    report = verify(home.path) if (home.path / LEDGER_FILE).exists() else None
    found = disclose(policy or home.policy, plan, index, report, run_id=run_id, roster=roster)
    try:
        check_takes_part(home.path, run_id or _RUN_ID)
        if places is not None:
            places.check(plan.config)
    except UserError as error:
        return replace(found, refusal=str(error))
    return found


def _check_ledger(policy: ClientPolicy, ledger: LedgerReport | None) -> None:
    if ledger is None:
        return
    if ledger.problems:
        raise LedgerDamaged(f"ledger: {ledger.problems[0]}")
    if ledger.population != policy.population:
        raise LedgerError(f"population {policy.population!r}: the ledger is of {ledger.population!r}")


def _mechanism(plan: RunPlan, release: PlannedRelease) -> Mechanism:
    encrypted = release.name in ENCRYPTED
    own = release.noise_multiplier
    if encrypted:
        mechanism = next(item.mechanism for item in plan.rounds if item.release == release.name)
        clip, own = mechanism.sensitivity, own / math.sqrt(mechanism.honest)
    elif plan.counts is not None and release.name == "counts":
        clip = plan.counts.sensitivity
    else:
        clip = getattr(plan.config, release.name).max_grad_norm
    return Mechanism(
        release=release.name,
        kind="Gaussian" if release.kind == "gaussian" else "DP-SGD",
        rounds=release.rounds,
        noise_multiplier=release.noise_multiplier,
        own_noise_multiplier=own,
        clip=clip,
        sample_rate=release.sample_rate,
        steps=release.steps,
        epsilon=compose_epsilon([release.event], plan.budget.delta),
        encrypted=encrypted,
    )
