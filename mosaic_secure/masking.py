"""What pairwise masks change in a plan: how large sums may be, what clients agree on, the exchanges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mosaic_secure.errors import UserError
from privacy.errors import PrivacyError
from privacy.mechanisms import SumMechanism, grid_for
from privacy.secagg.mask_terms import MaskTerms, largest_modulus
from privacy.secagg.parameters import CkksParameters

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan

__all__ = [
    "DEALT",
    "VIEW",
    "choose_encryption",
    "fit_mechanism",
    "largest_sum",
    "magnitude_bound",
    "mask_exchanges",
    "mask_terms",
    "unmasking_stage",
]

DEALT, VIEW = "mask-shares", "mask-view"
"""Stages of the setup of masks."""

WIDE = CkksParameters(8192, (40, 40, 60), 40)
"""Parameters whose sums reach 2^36, in ciphertexts of twice the bytes.

Decoding errs by 0.06 of the margin at most: with 2, 10 and 50 contributors, each integer at an end of its
range or anywhere in it, the largest error over 4096 slots was 0.02 times 2^-10."""
MOST_NOISE = 1.01
"""Masks may raise the noise of a sum by this factor, before the wide parameters are taken."""


def largest_sum(plan: RunPlan, params: CkksParameters | None = None) -> int:
    """Largest |integer| that a sum over all clients may reach: masked sums are known modulo M only."""
    params = params or plan.ckks
    if not plan.is_masked:
        return params.max_sum
    return largest_modulus(params, plan.config.clients.count) // 2 - 1


def choose_encryption(plan: RunPlan) -> CkksParameters:
    """Encryption parameters: wide ones where the default ones would cost a masked run precision.

    Under masks contributions of n clients take n times the room of their sum. What is left makes grids
    coarser, and noise is scaled to what rounding to the grid may change.
    """
    narrow = CkksParameters()
    if not plan.is_masked:
        return narrow
    for mechanism in plan.mechanisms.values():
        try:
            fitted = fit_mechanism(plan, mechanism, narrow)
        except UserError:
            return WIDE
        if fitted.grid_sensitivity > MOST_NOISE * fitted.sensitivity * fitted.grid:
            return WIDE
    return narrow


def fit_mechanism(
    plan: RunPlan, mechanism: SumMechanism, params: CkksParameters | None = None
) -> SumMechanism:
    """The mechanism on the finest grid on which the sum over all clients stays within `largest_sum`.

    Raises:
        UserError, PrivacyError: there is none.
    """
    largest = largest_sum(plan, params)
    try:
        return grid_for(largest, plan.total_records, plan.config.clients.count, mechanism)
    except PrivacyError as error:
        if not plan.is_masked:
            raise
        raise UserError(f"privacy.pairwise_masks = true leaves sums up to {largest}: {error}") from None


def magnitude_bound(plan: RunPlan, wanted: EncryptedRound) -> int:
    """Largest |integer| that the key authority decrypts where all clients are honest."""
    clients = plan.config.clients.count
    if not plan.is_masked:
        return wanted.mechanism.limit * clients
    return largest_modulus(plan.ckks, clients) // 2 * clients


def mask_terms(plan: RunPlan, run_id: str, roster: Mapping[str, bytes]) -> MaskTerms:
    """The terms of the masks of a run.

    Args:
        roster: client id -> 32-byte public key.

    Raises:
        UserError: the roster has another number of clients than the plan, which its thresholds rest on.
    """
    clients = plan.config.clients.count
    if len(roster) != clients:
        raise UserError(
            f"clients.count = {clients}, but the roster has {len(roster)}: masks need the same number"
        )
    modulus = largest_modulus(plan.ckks, clients)
    fewest = plan.config.min_contributors
    return MaskTerms(run_id, plan.agreement, roster, plan.round_lengths, fewest, modulus)


def unmasking_stage(round_id: str) -> str:
    """The stage in which the masks are taken off the sum of a round."""
    return f"{round_id}-unmask"


def mask_exchanges(plan: RunPlan) -> int:
    """Further exchanges with each client: to deal shares, to sign who takes part, to unmask each sum."""
    return 2 + len(plan.rounds) if plan.is_masked else 0
