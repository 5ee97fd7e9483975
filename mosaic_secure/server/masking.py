"""Pairwise masks at the server: it routes what clients need to agree on them, and takes them off each sum.

It sees public keys, sealed shares, and after each round shares of what that sum needs. Whoever falls silent
on the way is gone on without, as long as as many clients as the threshold go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.masking import DEALT, VIEW, mask_terms, unmasking_stage
from mosaic_secure.protocol import messages
from privacy.errors import AggregationError
from privacy.identity import verify
from privacy.secagg.mask_terms import Bundle, open_bundle, view_message
from privacy.secagg.masks import unmask

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.roll import Roll

__all__ = ["Masking", "bundles_of"]


def bundles_of(replies: dict[str, messages.EnrolReply]) -> dict[str, list[str]]:
    """What enrolment keeps of the clients' public keys of masks: client -> [keys, signature (hex)]."""
    return {
        client: [reply.mask_keys_json, reply.mask_keys_signature.hex()]
        for client, reply in replies.items()
        if reply.mask_keys_json
    }


class Masking:
    """The masks of one run. Clients agree on them once, when the first round is asked for."""

    def __init__(self, run: RunDirectory, plan: RunPlan, roll: Roll) -> None:
        self._run, self._plan, self._roll = run, plan, roll
        keys = {client: bytes.fromhex(public) for client, public in roll.keys.items()}
        self._terms = mask_terms(plan, run.run_id, keys)
        self._members: dict[str, Bundle] = {}
        self._signed: dict[str, Any] = {}

    @property
    def certificate(self) -> dict[str, Any]:
        """Fields of requests that show to clients who has signed the view.

        Raises:
            AggregationError: too few clients agree on masks.
        """
        if not self._signed:
            self._agree()
        return self._signed

    def unmask(self, wanted: EncryptedRound, total: np.ndarray, contributors: Sequence[str]) -> np.ndarray:
        """The sum, int64 [length], under the decrypted one.

        Raises:
            AggregationError: too few clients help, or what comes out is no sum that honest clients can reach.
        """
        stage = unmasking_stage(wanted.round_id)
        request = messages.UnmaskRequest(
            run_id=self._run.run_id,
            round_id=wanted.round_id,
            contributors=list(contributors),
            **self.certificate,
        )
        asked = {client: request for client in self._roll.clients if client in self._members}
        good, bad = self._roll.answers(stage, asked, messages.UnmaskReply)
        # who contributed and was left out refuses to give away its own mask key: nothing to tell
        self._roll.leave_out(stage, {client: code for client, code in bad.items() if client in contributors})
        answers = {client: reply.shares for client, reply in good.items()}
        found = unmask(self._terms, wanted.round_id, total, contributors, self._members, answers)
        if np.abs(found).max() > wanted.mechanism.limit * len(contributors):
            raise AggregationError(
                f"round {wanted.round_id}: the unmasked sum is out of range; a client sent a wrong value"
            )
        return found

    def _agree(self) -> None:
        bundles = self._bundles()
        members, boxes = self._dealt(bundles)
        self._members = {client: bundles[client] for client in members}
        self._signed = self._certified(boxes)

    def _bundles(self) -> dict[str, Bundle]:
        """The keys that came with enrolment, those that do not hold left out; sorted."""
        _, facts = self._run.load_stage("enrol") or ({}, {})
        found, bad = {}, {}
        for client, (text, signature) in sorted(facts.get("mask_keys", {}).items()):
            try:
                bundle = open_bundle(text, bytes.fromhex(signature), self._terms)
            except AggregationError:
                bad[client] = "mask-keys"
                continue
            if bundle.client == client and client in self._roll.clients:
                found[client] = bundle
        self._roll.leave_out(DEALT, bad)
        self._need(found, "offer keys")
        return found

    def _dealt(self, bundles: dict[str, Bundle]) -> tuple[list[str], dict[str, list[bytes]]]:
        """Who takes part, sorted, and by receiver what each of them sealed to it."""
        found = self._run.load_stage(DEALT)
        if found is None:
            _, facts = self._run.load_stage("enrol") or ({}, {})
            kept = facts["mask_keys"]
            request = messages.MaskSharesRequest(
                run_id=self._run.run_id,
                keys_json=[kept[client][0] for client in bundles],
                signatures=[bytes.fromhex(kept[client][1]) for client in bundles],
            )
            good, bad = self._roll.answers(
                DEALT, {client: request for client in bundles}, messages.MaskSharesReply
            )
            dealt = {}
            for client, reply in sorted(good.items()):
                if reply.receivers == list(bundles) and self._are_boxes(reply.boxes, len(bundles)):
                    dealt[client] = np.frombuffer(b"".join(reply.boxes), dtype=np.uint8)
                else:
                    bad[client] = "malformed"
            self._roll.leave_out(DEALT, bad)
            self._need(dealt, "dealt shares")
            self._run.save_stage(DEALT, dealt, {"left_out": self._roll.left_out(DEALT)})
            found = (dealt, {})
        members = sorted(found[0])
        rows = {client: found[0][client].reshape(len(bundles), -1) for client in members}
        place = {client: row for row, client in enumerate(bundles)}
        return members, {
            receiver: [rows[sender][place[receiver]].tobytes() for sender in members] for receiver in members
        }

    def _are_boxes(self, boxes: Sequence[bytes], count: int) -> bool:
        return len(boxes) == count and all(len(box) == self._terms.box_bytes for box in boxes)

    def _certified(self, boxes: dict[str, list[bytes]]) -> dict[str, Any]:
        """Signatures of the view, once enough clients have given theirs."""
        found = self._run.load_stage(VIEW)
        if found is None:
            requests = {
                client: messages.MaskViewRequest(
                    run_id=self._run.run_id, members=list(self._members), boxes=boxes[client]
                )
                for client in self._members
            }
            good, bad = self._roll.answers(VIEW, requests, messages.MaskViewReply)
            message = view_message(self._terms, self._members)
            signed = {}
            for client, reply in sorted(good.items()):
                if verify(self._terms.roster[client], reply.signature, message):
                    signed[client] = reply.signature.hex()
                else:
                    bad[client] = "bad-signature"
            self._roll.leave_out(VIEW, bad)
            self._need(signed, "have signed who takes part")
            kept = {"signatures": signed, "left_out": self._roll.left_out(VIEW)}
            self._run.save_stage(VIEW, {}, kept)
            found = ({}, kept)
        signed = dict(sorted(found[1]["signatures"].items()))
        return {
            "view_signers": list(signed),
            "view_signatures": [bytes.fromhex(signature) for signature in signed.values()],
        }

    def _need(self, clients: dict[str, Any], what: str) -> None:
        if len(clients) < self._terms.threshold:
            raise AggregationError(
                f"masks: {len(clients)} clients {what}, the plan needs {self._terms.threshold}; resume the "
                "run once more of them answer"
            )
