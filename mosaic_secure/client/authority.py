"""The key authority's answers: it opens runs, adds and decrypts signed contributions, counter-signs ledgers.

It runs on a node of its own. What it insists on (roster, fewest contributors) lies in its own directory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mosaic_secure.errors import UserError
from mosaic_secure.protocol.messages import (
    AnchorReply,
    AnchorRequest,
    AuthorityClose,
    AuthorityClosed,
    AuthorityKey,
    AuthorityOpen,
    ContributeReply,
    ContributeRequest,
    DecryptReply,
    DecryptRequest,
)
from privacy.canonical import canonical_json
from privacy.errors import LedgerError
from privacy.heads import Head
from privacy.identity import SigningKey
from privacy.secagg.authority import KeyAuthority
from privacy.secagg.parameters import CkksParameters
from privacy.storage import write_durably

__all__ = ["AuthorityHome"]

IDENTITY = "identity.key"
TERMS = "terms.json"


@dataclass(frozen=True)
class AuthorityHome:
    """The key authority's own directory: identity, terms, keys of open runs, sums, anchors."""

    path: Path

    @cached_property
    def key(self) -> SigningKey:
        """The authority's identity, which clients pin."""
        return SigningKey.load(self.path / IDENTITY)

    @property
    def authority(self) -> KeyAuthority:
        """The keys and sums under this directory."""
        return KeyAuthority(self.path, self.key)

    def set_terms(self, roster: dict[str, str], min_contributors: int) -> None:
        """Fix the clients (id -> public key, hex) and the fewest contributions of any sum."""
        terms = {"roster": roster, "min_contributors": min_contributors}
        write_durably(self.path / TERMS, canonical_json(terms))

    def open(self, request: AuthorityOpen) -> AuthorityKey:
        """Draw the key of a run, if its terms are no weaker than the authority's own."""
        terms = json.loads((self.path / TERMS).read_bytes())
        roster = json.loads(request.roster_json)
        if roster != terms["roster"]:
            raise UserError("roster: it is not the one that this key authority was given")
        if request.min_contributors < terms["min_contributors"]:
            raise UserError(
                f"min_contributors = {request.min_contributors}: this key authority asks for at least "
                f"{terms['min_contributors']}"
            )
        info = self.authority.open_run(
            request.run_id,
            CkksParameters.from_dict(json.loads(request.parameters_json)),
            {client: bytes.fromhex(key) for client, key in roster.items()},
            request.min_contributors,
            json.loads(request.rounds_json),
            request.agreement,
        )
        return AuthorityKey(
            code="ok", key_id=info.key_id, public_context=info.public_context, signature=info.signature
        )

    def contribute(self, request: ContributeRequest) -> ContributeReply:
        """Check some contributions of a round and set them aside."""
        self.authority.receive(request.run_id, request.round_id, request.contributions)
        return ContributeReply(code="ok")

    def decrypt(self, request: DecryptRequest) -> DecryptReply:
        """The sum of one round over enough valid contributions, all of which have arrived by now."""
        authority, run_id, round_id = self.authority, request.run_id, request.round_id
        authority.receive(run_id, round_id, request.brought)
        received = authority.received(run_id, round_id, request.contributions)
        found = authority.decrypt(run_id, round_id, received, request.magnitude_bound)
        return DecryptReply(
            code="ok",
            values={"sum": found.values},
            contributors=list(found.contributors),
            rejected_json=json.dumps(dict(found.rejected), sort_keys=True),
            sum_digest=found.sum_digest,
            signature=found.signature,
        )

    def anchor(self, request: AnchorRequest) -> AnchorReply:
        """Counter-sign the heads; a client whose head is older than a confirmed one gets its code instead."""
        roster = json.loads((self.path / TERMS).read_bytes())["roster"]
        anchors: dict[str, object] = {}
        for client, head in json.loads(request.heads_json).items():
            try:
                signed = self.authority.countersign(
                    client, bytes.fromhex(roster[client]), Head.from_dict(head)
                )
            except (LedgerError, KeyError, ValueError):
                anchors[client] = "ledger"
            else:
                anchors[client] = signed.to_dict()
        return AnchorReply(code="ok", anchors_json=canonical_json(anchors).decode())

    def close(self, request: AuthorityClose) -> AuthorityClosed:
        """Destroy the secret key of a run."""
        self.authority.close_run(request.run_id)
        return AuthorityClosed(code="ok")
