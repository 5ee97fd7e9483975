"""The guarantee of a plan, in numbers and words: mechanism by mechanism and coalition by coalition.

The statement says what holds for one record of one client, against whom, what that means for a person with
several records, and what is not covered. It is computed from the plan alone: it depends on no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from privacy.accounting import GaussianEvent, compose_epsilon, group_epsilon
from privacy.budget import BudgetPlan, PlannedRelease
from privacy.coalitions import Roster, Trust, coalitions, json_number
from privacy.errors import BudgetError

__all__ = ["SCHEMA_VERSION", "build_statement"]

SCHEMA_VERSION = 1


def build_statement(
    plan: BudgetPlan,
    *,
    trust: Trust,
    clients: int,
    honest_clients: int | None,
    colluding: int,
    min_contributors: int,
    population: Mapping[str, object],
    secure_noise: bool,
    encrypted_releases: Sequence[str],
    records: Sequence[int] = (1, 2, 5),
    continuous_releases: Sequence[str] = (),
    anchored: bool = True,
    masked_honest: int | None = None,
) -> dict[str, object]:
    """The content of `privacy.json`: plain JSON values, infinite epsilons as ``"inf"``.

    Args:
        plan: what a client enrols to; its `epsilon` is the claim. Under distributed trust the noise
            multipliers of encrypted releases are those of the sum over `honest_clients` clients.
        trust: ``"local"`` or ``"distributed"``.
        clients: on the roster, at least 1.
        honest_clients: h, the clients that share the noise of a sum, the protected one included; read under
            distributed trust only.
        colluding: c, the clients that may side with the server; at least 1 under distributed trust.
        min_contributors: fewest clients in an encrypted sum; at least h + c under distributed trust.
        population: names and visibility of the data, for the reader; copied as it is.
        secure_noise: whether noise and sampling come from the operating system's randomness.
        encrypted_releases: names of the plan's releases that leave a client encrypted.
        records: sizes of the groups of records of one person to state epsilon for.
        continuous_releases: names of Gaussian releases whose noise is floating-point; DP-SGD always is.
        anchored: whether a key authority countersigns ledger heads.
        masked_honest: where contributions are under pairwise masks, the fewest honest clients in any sum that
            server, authority and `colluding` clients can open (`privacy.secagg.quorum`); None without masks.

    Raises:
        BudgetError: the coalition's numbers do not fit each other, a named release is not in the plan, or an
            encrypted release is not a Gaussian one.
    """
    roster = Roster(trust, clients, honest_clients, colluding, min_contributors, masked_honest)
    encrypted = frozenset(encrypted_releases)
    for name in encrypted | set(continuous_releases):
        if plan.release(name).kind != "gaussian":
            raise BudgetError(f"release {name} is DP-SGD: it is never encrypted, and its noise is continuous")
    # a plan that comes from elsewhere must not be able to understate itself
    claimed = max(plan.epsilon, compose_epsilon(plan.events, plan.delta))
    mechanisms = [_mechanism(r, plan.delta, roster, encrypted, continuous_releases) for r in plan.releases]
    return {
        "schema_version": SCHEMA_VERSION,
        "unit": "one record of one client",
        "neighbours": "add or remove one record",
        "guarantee": _guarantee(claimed, plan.delta, roster),
        "target_epsilon": json_number(plan.target_epsilon),
        "epsilon": json_number(claimed),
        "delta": plan.delta,
        "claim": "the plan's: all that a client may release in this run, whether or not the run ends early",
        "accountant": _accountant(plan),
        "trust": trust,
        "clients": clients,
        "honest_clients": roster.honest if trust == "distributed" else None,
        "colluding_clients": colluding if trust == "distributed" else None,
        "min_contributors": min_contributors,
        "population": dict(population),
        "mechanisms": mechanisms,
        "coalitions": coalitions(plan, claimed, roster, encrypted),
        "records_of_one_person": [_group(plan, claimed, size) for size in records],
        "randomness": _randomness(secure_noise),
        "not_covered": _not_covered(mechanisms, roster, secure_noise, anchored),
    }


def _mechanism(
    release: PlannedRelease,
    delta: float,
    roster: Roster,
    encrypted: frozenset[str],
    continuous: Sequence[str],
) -> dict[str, object]:
    hidden = release.name in encrypted
    sigma = release.noise_multiplier
    gaussian = release.kind == "gaussian"
    if sigma == 0.0:
        noise = "none"
    elif gaussian and release.name not in continuous:
        noise = "discrete Gaussian on an integer grid"
    else:
        noise = "continuous Gaussian in floating point"
    return {
        "name": release.name,
        "kind": release.kind,
        "share_of_mu_squared": release.share,
        "noise_multiplier": sigma,
        "noise_multiplier_of_one_client": sigma / math.sqrt(roster.honest) if hidden else sigma,
        "noise": noise,
        "sample_rate": release.sample_rate,
        "steps": release.steps,
        "rounds": release.rounds,
        "mu": json_number(math.sqrt(release.rounds) / sigma if sigma else math.inf) if gaussian else None,
        "own_epsilon": json_number(compose_epsilon([release.event], delta)),
        "encrypted": hidden,
        "seen_in_the_clear_by": _seen_by(roster) if hidden else "server, for each client",
    }


def _seen_by(roster: Roster) -> str:
    if roster.masked_honest is not None:
        return "server, as a sum over clients; the key authority sees it masked"
    return "server and key authority, as a sum over clients"


def _group(plan: BudgetPlan, claimed: float, size: int) -> dict[str, object]:
    epsilon = claimed if size == 1 else group_epsilon(plan.events, plan.delta, size)
    return {"records": size, "epsilon": json_number(epsilon), "delta": plan.delta}


def _guarantee(epsilon: float, delta: float, roster: Roster) -> str:
    if math.isinf(epsilon):
        return "None: a release carries no noise, so what a client sends may reveal any of its records."
    against = (
        "against any coalition, the server and the key authority included"
        if roster.trust == "local"
        else f"against the server{' and the key authority' if roster.fully_masked else ''} together with any "
        f"{roster.colluding} other clients"
    )
    shown = f"{math.ceil(epsilon * 1000) / 1000:.3f}"  # rounded up: the words must not claim more
    return (
        f"For each client, all that leaves it in this run is ({shown}, {delta:g})-differentially private for "
        f"adding or removing one of its records, {against}. The odds of anything that may be guessed from it "
        f"change by a factor of at most exp({shown}) with any one record, but for a chance of {delta:g}."
    )


def _accountant(plan: BudgetPlan) -> str:
    if all(isinstance(event, GaussianEvent) for event in plan.events):
        return "exact composition of Gaussian mechanisms (Gaussian differential privacy)"
    return (
        "upper bound by composed privacy-loss random variables over all mechanisms, larger of both "
        "adjacencies (Opacus PRV; the Renyi bound where that leaves its numerical range); groups by "
        "pessimistic privacy-loss distributions (dp-accounting)"
    )


def _randomness(secure: bool) -> dict[str, object]:
    if secure:
        text = (
            "Noise and sampling derive from a fresh 256-bit secret of the operating system for each release, "
            "which never leaves the client (HMAC-SHA256 and ChaCha20)."
        )
    else:
        text = (
            "INSECURE: noise and sampling derive from the seed of the run. Who knows the seed can subtract "
            "the noise, so this run protects nobody; it is an experiment."
        )
    return {"secure": secure, "text": text}


def _not_covered(
    mechanisms: Sequence[Mapping[str, object]], roster: Roster, secure: bool, anchored: bool
) -> list[str]:
    limits = []
    if not secure:
        limits.append("Anyone who knows the seed: the noise of this run is reproducible.")
    floats = [str(m["name"]) for m in mechanisms if str(m["noise"]).startswith("continuous")]
    if floats:
        limits.append(
            f"Attacks on the low-order bits of floating-point noise, used by: {', '.join(floats)}. Noise on "
            "an integer grid is not open to them."
        )
    limits += [
        "One person whose records are with two or more clients: their epsilons add up. Guarantees of "
        "different clients hold side by side only for persons whose records are all with one client.",
        "A person with several records at one client: the epsilon of that many records holds, as stated "
        "under records_of_one_person, and not that of one.",
        "Other runs on the same records: their epsilons and deltas add up, in the client's ledger.",
        "What the timing, memory or power use of a client's machine reveals.",
        "That a client takes part at all, and facts about a population that hold with or without any one "
        "record.",
    ]
    if not anchored:
        limits.append("A ledger that is set back to an older copy: no key authority countersigns its heads.")
    if roster.trust == "distributed":
        limits.append(
            "A roster that one party fills with clients of its own: it can leave the protected client with "
            "nothing but its own share of the noise."
        )
        if roster.masked_honest is None:
            limits.append(
                "A key that is recovered from approximate decryptions: the short life of keys, noise before "
                "encryption and rounding mitigate this, and none of them is a proof."
            )
    return limits
