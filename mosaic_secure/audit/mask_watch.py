"""What the server sees of pairwise masks in a run that is audited: enough to take them off its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.masking import mask_terms
from mosaic_secure.protocol.messages import EnrolReply, MaskViewRequest, UnmaskReply, UnmaskRequest
from privacy.secagg.mask_terms import open_bundle
from privacy.secagg.masks import unmask

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.protocol.fields import Message

__all__ = ["MaskWatch"]


@dataclass
class MaskWatch:
    """Listens to the messages that `MESSAGES` names; unmasks as the server does."""

    MESSAGES = (EnrolReply, MaskViewRequest, UnmaskRequest, UnmaskReply)

    _keys: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _members: Sequence[str] = ()
    _round: str = ""
    _shares: dict[str, dict[str, Sequence[bytes]]] = field(default_factory=dict)

    def hear(self, client: str, message: Message) -> None:
        """One message to or from `client`."""
        if isinstance(message, EnrolReply) and message.mask_keys_json:
            self._keys[client] = (message.mask_keys_json, message.mask_keys_signature)
        elif isinstance(message, MaskViewRequest):
            self._members = message.members
        elif isinstance(message, UnmaskRequest):
            self._round = message.round_id
        elif isinstance(message, UnmaskReply) and message.code == "ok":
            self._shares.setdefault(self._round, {})[client] = message.shares

    def unmasked(
        self,
        plan: RunPlan,
        run_id: str,
        roster: Mapping[str, bytes],
        round_id: str,
        total: np.ndarray,
        contributors: Sequence[str],
    ) -> np.ndarray:
        """The sum under a decrypted one, int64 of the same length; AggregationError without its shares."""
        terms = mask_terms(plan, run_id, roster)
        members = {client: open_bundle(*self._keys[client], terms) for client in self._members}
        return unmask(terms, round_id, total, contributors, members, self._shares.get(round_id, {}))
