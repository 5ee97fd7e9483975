"""The terms that a run is opened with at the key authority, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from privacy.errors import AggregationError
from privacy.identity import KEY_BYTES
from privacy.secagg.parameters import CkksParameters
from privacy.secagg.vault import check_name

__all__ = ["checked_terms"]

FEWEST_CONTRIBUTORS = 2
LONGEST_VECTOR = 2**27
DIGEST = re.compile(r"[0-9a-f]{64}")


def checked_terms(
    run_id: str,
    params: CkksParameters,
    roster: Mapping[str, bytes],
    min_contributors: int,
    rounds: Mapping[str, int],
    agreement: str,
) -> dict[str, object]:
    """The terms as they are stored; arguments and errors as of `KeyAuthority.open_run`."""
    check_name("run_id", run_id)
    for client, public in roster.items():
        check_name("roster", client)
        if not isinstance(public, bytes) or len(public) != KEY_BYTES:
            raise AggregationError(f"roster: the public key of {client} must be {KEY_BYTES} bytes")
    if len(set(roster.values())) != len(roster):
        raise AggregationError("roster: two clients have the same public key; each needs its own")
    if isinstance(min_contributors, bool) or not isinstance(min_contributors, int):
        raise AggregationError(f"min_contributors: {min_contributors!r}; must be a whole number")
    if not FEWEST_CONTRIBUTORS <= min_contributors <= len(roster):
        raise AggregationError(
            f"min_contributors: {min_contributors}; must be from {FEWEST_CONTRIBUTORS} to the {len(roster)} "
            "clients of the roster, as the contribution of a single client is never decrypted"
        )
    params.check_capacity(1, len(roster))
    if not rounds:
        raise AggregationError("rounds: none; name at least one sum")
    for round_id, length in rounds.items():
        check_name("rounds", round_id)
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= LONGEST_VECTOR:
            raise AggregationError(
                f"rounds: length {length!r} of {round_id}; must be from 1 to {LONGEST_VECTOR}"
            )
    if not isinstance(agreement, str) or not DIGEST.fullmatch(agreement):
        raise AggregationError("agreement: must be a SHA-256 of 64 hexadecimal digits")
    return {
        "schema_version": 1,
        "run_id": run_id,
        "parameters": params.to_dict(),
        "roster": {client: public.hex() for client, public in roster.items()},
        "min_contributors": min_contributors,
        "rounds": dict(rounds),
        "agreement": agreement,
    }
