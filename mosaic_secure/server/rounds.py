"""One encrypted round at the server: add the contributions, and have the authority add and decrypt them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.masking import magnitude_bound
from mosaic_secure.protocol.messages import (
    ContributeReply,
    ContributeRequest,
    DecryptReply,
    DecryptRequest,
)
from mosaic_secure.server.courier import LOST, Refused
from privacy.errors import AggregationError
from privacy.secagg.aggregation import sum_contributions, sum_digest
from privacy.secagg.results import DecryptedSum

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.server.contributions import Contributions
    from mosaic_secure.server.roll import Roll

__all__ = ["decrypt_round"]


def decrypt_round(
    roll: Roll,
    plan: RunPlan,
    wanted: EncryptedRound,
    run_id: str,
    contributions: Contributions,
    settle: Callable[[list[str]], list[str]],
) -> tuple[np.ndarray, list[str]]:
    """The decrypted sum, int64 [length], and the clients in it.

    A client whose contribution has a fault is not in it; the rest go on if they are enough.

    Args:
        roll: whose keys contributions and sum are checked with.
        contributions: all that came for this round.
        settle: is given the clients whose contributions are valid and returns the ones to add, durably: the
            authority decrypts one set, so a resumed run must come back with the same one.

    Raises:
        AggregationError: too few contributions, the authority refuses, or its sum is not the server's.
    """
    valid, faults = contributions.valid, contributions.faults
    fewest = plan.config.min_contributors
    if len(valid) < fewest:
        listed = ", ".join(f"{client}: {code}" for client, code in faults.items())
        raise AggregationError(
            f"round {wanted.round_id}: {len(valid)} valid contributions, the plan needs {fewest} ({listed})"
        )
    chosen = settle(valid)
    if missing := [client for client in chosen if client not in valid]:
        raise AggregationError(
            f"round {wanted.round_id}: was begun with {missing[0]}, which has now sent nothing valid "
            f"({faults.get(missing[0], 'silent')}); resume the run once it answers again"
        )
    bound = magnitude_bound(plan, wanted)
    answer = roll.patiently(
        wanted.round_id, lambda: _decrypted(roll, wanted, run_id, contributions, chosen, bound)
    )
    if isinstance(answer, Refused):
        if answer.code not in LOST:
            contributions.give_up()
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
    own = sum_digest(
        contributions.accepted(chosen), sum_contributions(plan.ckks, contributions.opened(chosen))
    )
    if own != found.sum_digest or found.contributors != tuple(chosen):
        raise AggregationError(
            f"round {wanted.round_id}: the authority's sum is not over these contributions"
        )
    return found.values, list(found.contributors)


def _decrypted(
    roll: Roll,
    wanted: EncryptedRound,
    run_id: str,
    contributions: Contributions,
    chosen: list[str],
    bound: int,
) -> DecryptReply | Refused:
    """Bring the authority the contributions and have them decrypted: in one message, unless they are many.

    An authority that was away may have lost what was brought before, so all of them are brought again.
    """
    names = contributions.names(chosen)
    *before, last = contributions.in_parts(names)
    for part in before:
        brought = _bring(roll, wanted, run_id, contributions.read(part))
        if isinstance(brought, Refused):
            return brought
    request = DecryptRequest(
        run_id=run_id,
        round_id=wanted.round_id,
        magnitude_bound=bound,
        contributions=names,
        brought=contributions.read(last),
    )
    return roll.ask_authority_once(wanted.round_id, request, DecryptReply)


def _bring(roll: Roll, wanted: EncryptedRound, run_id: str, part: list[bytes]) -> ContributeReply | Refused:
    """Send some contributions to the authority. A function, so that nothing of them outlives it."""
    request = ContributeRequest(run_id=run_id, round_id=wanted.round_id, contributions=part)
    return roll.ask_authority_once(wanted.round_id, request, ContributeReply)
