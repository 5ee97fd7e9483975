"""Both ends of a run at the clients: enrolment and seal, with ledgers that the authority counter-signs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol import messages
from mosaic_secure.server.courier import Refused
from privacy.canonical import canonical_json
from privacy.errors import LedgerError

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
    accepted, refused = roll.answers("enrol", {client: request for client in roll.keys}, messages.EnrolReply)
    anchors = _anchor(run, roll, accepted) if accepted else {}
    refused |= {client: str(anchor) for client, anchor in anchors.items() if not isinstance(anchor, dict)}
    clients = [client for client in roll.keys if client in accepted and client not in refused]
    roll.need(clients, refused, "enrolment")
    run.save_stage("enrol", {}, {"clients": clients, "refused": refused})
    progress(Progress("enrolment", 1, 1, f"{len(clients)} of {len(roll.keys)} clients take part"))
    return clients


def finish(run: RunDirectory, plan: RunPlan, roll: Roll) -> dict[str, Any]:
    """End the run at every client and at the authority; returns signed ledger excerpts and anchors."""
    found = run.load_stage("finish")
    if found is not None:
        return found[1]
    request = messages.SealRequest(run_id=run.run_id, final=True)
    ended = roll.ask("seal", request, messages.SealReply)
    anchors = _anchor(run, roll, ended)
    if plan.rounds:
        close = messages.AuthorityClose(run_id=run.run_id)
        roll.ask_authority("seal", close, messages.AuthorityClosed)
    record = {
        "excerpts": {client: json.loads(reply.excerpt_json) for client, reply in ended.items()},
        "anchors": {client: anchor for client, anchor in anchors.items() if isinstance(anchor, dict)},
    }
    run.save_stage("finish", {}, record)
    return record


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
