"""What a client answers about masks; their secrets lie in its home (`privacy.secagg.mask_book`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mosaic_secure.masking import mask_terms
from mosaic_secure.protocol.messages import (
    MaskSharesReply,
    MaskSharesRequest,
    MaskViewReply,
    MaskViewRequest,
    UnmaskReply,
    UnmaskRequest,
)

if TYPE_CHECKING:
    from mosaic_secure.client.session import ClientHome, Session
    from mosaic_secure.plan import RunPlan
    from privacy.secagg.mask_book import MaskBook

__all__ = ["book_of", "dealt", "unmasked", "viewed"]


def book_of(home: ClientHome, plan: RunPlan, run_id: str) -> MaskBook | None:
    """The client's masks of a run, by its own plan and the roster of its policy; None without."""
    from privacy.secagg.mask_book import MaskBook

    if not plan.is_masked:
        return None
    return MaskBook(home.path, home.party, home.key, mask_terms(plan, run_id, home.policy.roster_keys))


def dealt(session: Session, request: MaskSharesRequest) -> MaskSharesReply:
    """Shares of its mask secrets, sealed to each client whose keys came."""
    receivers, boxes = session.masks.deal(request.keys_json, request.signatures)
    return MaskSharesReply(code="ok", receivers=receivers, boxes=boxes)


def viewed(session: Session, request: MaskViewRequest) -> MaskViewReply:
    """Its signature of who takes part in the masks, once it keeps what they dealt to it."""
    return MaskViewReply(code="ok", signature=session.masks.join(request.members, request.boxes))


def unmasked(session: Session, request: UnmaskRequest) -> UnmaskReply:
    """Its shares for the sum of the settled contributors of a round."""
    wanted, masks = session.plan.round(request.round_id), session.masks
    masks.check_certificate(request.view_signers, request.view_signatures)
    with session.releases() as store:  # locked, so that it does not contribute meanwhile
        contributed = store.is_made(wanted.release, wanted.round)
        shares = masks.reveal(request.round_id, request.contributors, contributed)
    return UnmaskReply(code="ok", shares=shares)
