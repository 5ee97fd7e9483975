"""Both ends of a run at the clients: enrolment and seal, with ledgers that the authority counter-signs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol import messages
from mosaic_secure.report.evidence.ledgers import excerpt_problem
from mosaic_secure.server.counted import counts_in
from mosaic_secure.server.courier import Refused
from mosaic_secure.server.inspection import MALFORMED
from mosaic_secure.server.masking import bundles_of
from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import AggregationError, LedgerError, PrivacyError

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.roll import Roll

__all__ = ["enrol", "finish"]


def enrol(run: RunDirectory, plan: RunPlan, roll: Roll, progress: ProgressCallback) -> list[str]:
    """Ask every client; those that accept take part. The authority confirms that no ledger went back.

    Raises:
        UserError, BudgetError, LedgerError: too few accept, or the authority counter-signs nothing.
    """
    found = run.load_stage("enrol")
    if found is not None:
        return list(found[1]["clients"])
    request = messages.EnrolRequest(
        run_id=run.run_id,
        config_json=canonical_json(plan.config.to_dict()).decode(),
        plan_json=canonical_json(plan.budget.to_dict()).decode(),
        roster_json=canonical_json(roll.keys).decode(),
    )
    answers, refused = roll.answers("enrol", {client: request for client in roll.keys}, messages.EnrolReply)
    accepted = {client: reply for client, reply in answers.items() if reply.accepted}
    refused |= {client: "refused" for client in answers if client not in accepted}
    anchors = _anchor(run, roll, accepted) if accepted else {}
    refused |= {client: str(anchor) for client, anchor in anchors.items() if not isinstance(anchor, dict)}
    clients = [client for client in roll.keys if client in accepted and client not in refused]
    roll.need(clients, refused, "enrolment")
    run.save_stage("enrol", {}, {"clients": clients, "refused": refused, "mask_keys": bundles_of(accepted)})
    roll.leave_out("enrolment", refused)
    progress(Progress("enrolment", 1, 1, f"{len(clients)} of {len(roll.keys)} clients take part"))
    return clients


def finish(run: RunDirectory, plan: RunPlan, roll: Roll) -> dict[str, Any]:
    """End the run at every client and at the authority; returns signed ledger excerpts and anchors.

    Raises:
        UserError, BudgetError, LedgerError: too few clients end it, or the authority counter-signs nothing.
        AggregationError: the authority does not confirm that the secret key is destroyed.
    """
    found = run.load_stage("finish")
    if found is not None:
        return found[1]
    request = messages.SealRequest(run_id=run.run_id, final=True)
    answers = roll.ask("seal", request, messages.SealReply)
    used = _used(run, plan)
    faults = {
        client: _excerpt_fault(run, plan, roll, client, reply, used[client])
        for client, reply in answers.items()
    }
    ended = {client: reply for client, reply in answers.items() if faults[client] is None}
    roll.leave_out("seal", {client: fault for client, fault in faults.items() if fault is not None})
    roll.need(ended, roll.left_out("seal"), "seal")
    anchors = _anchor(run, roll, ended)
    roll.leave_out("anchor", {client: code for client, code in anchors.items() if isinstance(code, str)})
    if plan.rounds:
        close = messages.AuthorityClose(run_id=run.run_id)
        closed = roll.ask_authority("seal", close, messages.AuthorityClosed)
        if isinstance(closed, Refused):
            raise AggregationError(
                f"key authority: did not confirm that the key of the run is destroyed ({closed.code}); "
                "resume the run once it answers again"
            )
    record = {
        "excerpts": {client: json.loads(reply.excerpt_json) for client, reply in ended.items()},
        "anchors": {client: anchor for client, anchor in anchors.items() if isinstance(anchor, dict)},
        "left_out": {stage: roll.left_out(stage) for stage in ("seal", "anchor")},
    }
    run.save_stage("finish", {}, record)
    return record


def _excerpt_fault(
    run: RunDirectory,
    plan: RunPlan,
    roll: Roll,
    client: str,
    reply: messages.SealReply,
    used: Set[tuple[str, int]],
) -> str | None:
    """What is wrong with the excerpt of a ledger: "malformed" if it is none, "ledger" if it is not signed by
    this client, of another run or plan, does not add up, or lacks a release in `used`; None if nothing is.

    A ledger lacks what its client has sent when it was restored from a copy during the run.
    """
    try:
        excerpt = parse_canonical(reply.excerpt_json.encode())
        planned = canonical_json(excerpt["plan"]) == canonical_json(plan.budget.to_dict())
        mine = excerpt["public"] == roll.keys[client] and excerpt["head"] == _head(reply)
        problem = (
            excerpt_problem(excerpt, client, run.run_id, plan.config_hash) if planned and mine else "other"
        )
        listed = {(release["release"], release["round"]) for release in excerpt["releases"]}
    except PrivacyError:
        return "ledger"
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return MALFORMED
    return "ledger" if problem or not used <= listed else None


def _used(run: RunDirectory, plan: RunPlan) -> defaultdict[str, set[tuple[str, int]]]:
    """By client the releases, as (name, round), that what this run has made rests on."""
    used: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)

    def note(stage: str, clients: str, *releases: tuple[str, int]) -> None:
        _, facts = run.load_stage(stage) or ({}, {})
        for client in facts.get(clients, ()):
            used[client].update(releases)

    def counts(stage: str) -> dict[str, Any]:
        return counts_in((run.load_stage(stage) or ({}, {}))[0])

    for wanted in plan.rounds:
        note(wanted.round_id, "contributors", (wanted.release, wanted.round))
    rounds = plan.config.classifier.rounds if plan.config.classifier.enabled else 0
    for index in range(rounds):
        note(f"local-{index}", "clients", ("classifier", index))
        counted = () if plan.rounds else tuple(used)  # with weights only where no round has brought them
        for client in counted:
            if counts(f"local-{index}.{client}"):
                used[client].add(("counts", 0))
    if rounds and plan.config.generator.enabled:
        note(f"local-{rounds - 1}", "clients", ("generator", 0))
    for index in range(plan.config.fine_tune.rounds):
        note(f"fine-tune-{index}", "clients", ("fine_tune", index))
    for stage in (*(wanted.round_id for wanted in plan.rounds[:1]), "fine-tune-0"):
        for client in counts(stage):
            used[client].add(("counts", 0))
    return used


def _anchor(
    run: RunDirectory, roll: Roll, replies: Mapping[str, messages.EnrolReply | messages.SealReply]
) -> dict[str, Any]:
    """Have the heads in `replies` counter-signed, and bring every client its anchor.

    Returns:
        client id -> anchor, or the code of whoever refused it.
    """
    heads = {client: _head(reply) for client, reply in replies.items()}
    request = messages.AnchorRequest(run_id=run.run_id, heads_json=canonical_json(heads).decode())
    answer = roll.ask_authority("anchor", request, messages.AnchorReply)
    if isinstance(answer, Refused):
        raise LedgerError(f"key authority: did not counter-sign the ledgers ({answer.code})")
    anchors = json.loads(answer.anchors_json)
    carry = {
        client: messages.SealRequest(
            run_id=run.run_id, final=False, anchor_json=canonical_json(anchor).decode()
        )
        for client, anchor in anchors.items()
        if isinstance(anchor, dict)
    }
    _, refused = roll.answers("anchor", carry, messages.SealReply)
    return anchors | refused


def _head(reply: messages.EnrolReply | messages.SealReply) -> dict[str, Any]:
    """The head of a client's ledger, as the authority reads it."""
    return {
        "sequence": reply.ledger_sequence,
        "digest": reply.ledger_digest,
        "signature": reply.ledger_signature.hex(),
    }
