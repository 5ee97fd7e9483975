"""One encrypted round at the server: check contributions, add them, have the authority add and decrypt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.protocol.messages import DecryptReply, DecryptRequest, PrototypeReply
from mosaic_secure.server.courier import Refused
from privacy.errors import AggregationError, ContributionError
from privacy.secagg.aggregation import sum_contributions, sum_digest
from privacy.secagg.contribution import Contribution, Expectation, open_contribution
from privacy.secagg.results import DecryptedSum

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.server.roll import Roll

__all__ = ["decrypt_round"]


def decrypt_round(
    roll: Roll,
    plan: RunPlan,
    wanted: EncryptedRound,
    run_id: str,
    key_id: str,
    replies: Mapping[str, PrototypeReply],
    settle: Callable[[list[str]], list[str]],
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """The decrypted sum, int64 [length], the clients in it, and the fault of each client that is not.

    A contribution with a fault loses its sender this round, by name; the rest go on if they are enough.

    Args:
        roll: whose keys contributions and sum are checked with.
        replies: by the client that the transport says they came from.
        settle: is given the clients whose contributions are valid and returns the ones to add, durably: the
            authority decrypts one set, so a resumed run must come back with the same one.

    Raises:
        AggregationError: too few contributions, the authority refuses, or its sum is not the server's.
    """
    keys = {client: bytes.fromhex(key) for client, key in roll.keys.items()}
    good: dict[str, tuple[bytes, Contribution]] = {}
    faults: dict[str, str] = {}
    for client, reply in replies.items():
        expected = Expectation(run_id, wanted.round_id, key_id, plan.ckks, wanted.length, client)
        try:
            good[client] = (reply.contribution, open_contribution(reply.contribution, expected, keys))
        except ContributionError as error:
            faults[client] = error.code
    fewest = plan.config.min_contributors
    if len(good) < fewest:
        listed = ", ".join(f"{client}: {code}" for client, code in faults.items())
        raise AggregationError(
            f"round {wanted.round_id}: {len(good)} valid contributions, the plan needs {fewest} ({listed})"
        )
    chosen = settle(sorted(good))
    if missing := [client for client in chosen if client not in good]:
        raise AggregationError(
            f"round {wanted.round_id}: was begun with {missing[0]}, which has now sent nothing valid "
            f"({faults.get(missing[0], 'silent')}); resume the run once it answers again"
        )
    ordered = [good[client] for client in chosen]
    request = DecryptRequest(
        run_id=run_id,
        round_id=wanted.round_id,
        magnitude_bound=wanted.mechanism.limit * len(roll.keys),
        contributions=[data for data, _ in ordered],
    )
    answer = roll.ask_authority(wanted.round_id, request, DecryptReply)
    if isinstance(answer, Refused):
        raise AggregationError(f"round {wanted.round_id}: the key authority aborted it ({answer.code})")
    found = DecryptedSum(
        run_id,
        wanted.round_id,
        answer.values["sum"],
        tuple(answer.contributors),
        answer.sum_digest,
        json.loads(answer.rejected_json),
        answer.signature,
    )
    found.check(roll.authority)
    parts = [contribution for _, contribution in ordered]
    own = sum_digest(parts, sum_contributions(plan.ckks, parts))
    if own != found.sum_digest or found.contributors != tuple(c.header.client for c in parts):
        raise AggregationError(
            f"round {wanted.round_id}: the authority's sum is not over these contributions"
        )
    return found.values, list(found.contributors), faults
