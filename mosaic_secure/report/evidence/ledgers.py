"""Signed ledger excerpts against each other, against the run, and against what the run claims.

All of it needs the files alone. The clients' keys stand in the excerpts themselves, so this finds what was
changed later or does not add up, and not a run whose parties were all invented.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from privacy.accounting import compose_epsilon, event_from_dict
from privacy.budget import BudgetPlan
from privacy.errors import PrivacyError
from privacy.heads import Anchor, Head
from privacy.ledger import verify_excerpt
from privacy.ledger_state import ReleaseRecord, RunState

__all__ = ["check_ledgers", "excerpt_problem"]

_RELATIVE = 1e-6
"""Of two epsilons that were composed by other versions of the numerical libraries."""


def check_ledgers(
    ledgers: Mapping[str, Any], statement: Mapping[str, Any], run_id: str, config_hash: str
) -> list[str]:
    """One sentence for each thing that does not hold; none if every excerpt bears out the statement.

    Args:
        ledgers: what ledgers.json holds. statement: what privacy.json holds.
        run_id, config_hash: of the run, as its manifest names them.
    """
    try:
        excerpts, anchors = dict(ledgers["excerpts"]), dict(ledgers["anchors"])
        spent = dict(statement["spent"])
    except (KeyError, TypeError, ValueError):
        return ["is not what a run leaves"]
    problems = []
    if not excerpts:
        problems.append("has no excerpt of any client")
    for client in sorted(excerpts.keys() ^ spent.keys()):
        problems.append(f"{client}: stands in ledgers.json or in privacy.json, and not in both")
    for client in sorted(anchors.keys() - excerpts.keys()):
        problems.append(f"{client}: an anchor without an excerpt")
    authorities = set()
    for client in sorted(excerpts.keys() & spent.keys()):
        try:
            problem = excerpt_problem(excerpts[client], client, run_id, config_hash)
            problem = problem or _claim_problem(excerpts[client], statement, spent[client])
            if problem is None and client in anchors:
                problem = _anchor_problem(anchors[client], excerpts[client], client)
                authorities.add(anchors[client]["authority"])
        except PrivacyError as error:
            problem = str(error)
        except (KeyError, TypeError, ValueError, AttributeError):
            problem = "is not what a ledger gives"
        if problem:
            problems.append(f"{client}: {problem}")
    if len(authorities) > 1:
        problems.append("anchors of more than one key authority")
    return problems


def excerpt_problem(excerpt: Mapping[str, Any], client: str, run_id: str, config_hash: str) -> str | None:
    """What does not hold in a client's signed excerpt, in words; None if it is of this run and adds up.

    Raises:
        PrivacyError, KeyError, TypeError, ValueError, AttributeError: it is not what a ledger gives.
    """
    public = bytes.fromhex(excerpt["public"])
    if not verify_excerpt(excerpt, public):
        return "the excerpt is not what its owner has signed"
    if (excerpt["party"], excerpt["run_id"], excerpt["config_hash"]) != (client, run_id, config_hash):
        return "the excerpt is of another client, run or configuration"
    if not Head.from_dict(excerpt["head"]).is_signed_by(public):
        return "the head of the ledger is not signed by its owner"
    if excerpt["sealed"] is not True:
        return "the ledger has not sealed this run"
    plan = BudgetPlan.from_dict(excerpt["plan"])
    state = RunState(run_id, config_hash, "", plan, {**excerpt["terms"]})
    for release in excerpt["releases"]:
        name, number, event = release["release"], release["round"], event_from_dict(release["event"])
        state.check_release(name, number, event)  # raises for what is not planned, or made twice
        state.releases[name, number] = ReleaseRecord(name, number, "", event, "", release["sha256"])
    return None


def _claim_problem(excerpt: Mapping[str, Any], statement: Mapping[str, Any], spent: object) -> str | None:
    """What the ledger says was planned and done against what the statement claims."""
    plan = BudgetPlan.from_dict(excerpt["plan"])
    claimed, delta = float(statement["epsilon"]), statement["delta"]
    if plan.delta != delta:
        return f"the ledger plans delta {plan.delta:g}, privacy.json claims {delta:g}"
    if _above(max(plan.epsilon, compose_epsilon(plan.events, delta)), claimed):
        return f"the ledger plans epsilon {plan.epsilon:.4g}, privacy.json claims {claimed:.4g}"
    events = tuple(event_from_dict(release["event"]) for release in excerpt["releases"])
    done = compose_epsilon(events, delta) if events else 0.0
    if _above(done, float(spent)):
        return f"the ledger's releases cost epsilon {done:.4g}, privacy.json says {float(spent):.4g}"
    planned = [(r.name, r.noise_multiplier, r.sample_rate, r.steps, r.rounds) for r in plan.releases]
    stated = [
        (row["name"], row["noise_multiplier"], row["sample_rate"], row["steps"], row["rounds"])
        for row in statement["mechanisms"]
    ]
    if planned != stated:
        return "the mechanisms of privacy.json are not those of the ledger"
    terms = excerpt["terms"]
    agreed = (terms["trust"], bool(terms["insecure_noise"]), terms["min_contributors"])
    if agreed != (
        statement["trust"],
        not statement["randomness"]["secure"],
        statement["min_contributors"],
    ):
        return "privacy.json states other terms than the client agreed to"
    return None


def _above(found: float, claimed: float) -> bool:
    if math.isinf(found) or math.isinf(claimed):
        return found > claimed
    return found > claimed * (1 + _RELATIVE)


def _anchor_problem(anchor: Mapping[str, Any], excerpt: Mapping[str, Any], client: str) -> str | None:
    made, head = Anchor.from_dict(anchor), Head.from_dict(excerpt["head"])
    if not made.is_authentic:
        return "its anchor is not signed by the key authority that it names"
    if (made.client, made.public.hex()) != (client, excerpt["public"]):
        return "its anchor is of another ledger"
    if (made.sequence, made.digest) != (head.sequence, head.digest):
        return "its anchor is of another head"
    return None
