"""The trust map: which role may receive which class of information, checked on the messages themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosaic_secure.protocol.fields import FIELD_CLASSES, ROLES, Message, field_specs
from mosaic_secure.protocol.messages import MESSAGES

FLOWS: Mapping[tuple[str, str], frozenset[str]] = {
    ("server", "client"): frozenset({"control", "public", "signature", "sealed"}),
    ("client", "server"): frozenset(
        {"control", "public", "dp_release", "ciphertext", "signature", "sealed", "share"}
    ),
    ("server", "authority"): frozenset({"control", "ciphertext", "signature"}),
    ("authority", "server"): frozenset({"control", "public", "sum", "signature"}),
}
"""Sender and receiver -> the field classes that may pass. A pair that is not here never speaks."""

TRUST_MAP: Mapping[str, frozenset[str]] = {
    role: frozenset().union(*(classes for (_, receiver), classes in FLOWS.items() if receiver == role))
    for role in ROLES
}
"""Role -> every field class that may reach it."""

_MEANING: Mapping[str, str] = {
    "control": "identifiers, plans and fixed codes, decided without looking at records",
    "public": "public keys, and what the server broadcasts (post-processing of releases)",
    "dp_release": "DP-trained weights and noised class counts of one client",
    "ciphertext": "signed, encrypted sums over the records of one client",
    "sum": "decrypted sums over at least the agreed number of clients",
    "signature": "signatures, digests and heads of ledgers",
    "sealed": "shares of mask secrets, each encrypted by one client for another",
    "share": "shares of the masks of a round, once its contributors are settled",
}
_HOLDS: dict[str, str] = {
    "server": "the public encryption context",
    "client": "its records, its budget ledger, its policy",
    "authority": "the secret decryption key; encrypted contributions to the round under way",
}
_NEVER: dict[str, str] = {
    "server": "any record, exact counts, any single client's sums, the secret key",
    "client": "other clients' contributions",
    "authority": "weights, records; decrypts no single contribution (by protocol)",
}
_HOLDS_WITHOUT_SUMS: Mapping[str, str] = {
    "server": "no key",
    "authority": "its signing key; no encryption is used in this run",
}
_NEVER_WITHOUT_SUMS: Mapping[str, str] = {
    "server": "any record, exact counts",
    "authority": "weights, records",
}
_HOLDS_MASKED: Mapping[str, str] = {
    "client": "its records, its budget ledger, its policy; masks that it agreed on with other clients",
}
_NEVER_MASKED: Mapping[str, str] = {
    "authority": "weights, records, shares of masks; what it decrypts is masked, the sums as well",
}


class TrustError(ValueError):
    """A field was about to reach, or did reach, a role that must not see it."""


def flow_problem(message: type[Message], sender: str, receiver: str) -> str | None:
    """Why this message may not go from one role to the other, or None if it may."""
    name = message.__name__
    if sender not in message.senders or receiver not in message.receivers:
        return f"{name} must not go from {sender} to {receiver}"
    allowed = FLOWS.get((sender, receiver), frozenset())
    for spec in field_specs(message):
        if spec.field_class not in allowed:
            return f"{name}.{spec.name} ({spec.field_class}) must not reach the {receiver} from the {sender}"
    return None


def check_flow(sender: str, receiver: str, message: Message | type[Message]) -> None:
    """Refuse a message whose route or fields the trust map does not allow.

    Raises:
        TrustError: naming the message, the field and the role.
    """
    problem = flow_problem(message if isinstance(message, type) else type(message), sender, receiver)
    if problem is not None:
        raise TrustError(problem)


def trust_table(encrypted: bool = True, masked: bool = True) -> dict[str, Any]:
    """The trust map for reports: per role what it holds, receives and never sees; per field where it goes.

    Args:
        encrypted: whether the run has encrypted sums; without any, no key is made and no ciphertext is sent.
        masked: whether contributions to these sums are under pairwise masks.
    """
    unsent = set() if encrypted else {"ciphertext", "sum"}
    unsent |= set() if encrypted and masked else {"sealed", "share"}
    holds, never = dict(_HOLDS), dict(_NEVER)
    if not encrypted:
        holds, never = holds | _HOLDS_WITHOUT_SUMS, never | _NEVER_WITHOUT_SUMS
    elif masked:
        holds, never = holds | _HOLDS_MASKED, never | _NEVER_MASKED
    roles = [
        {
            "role": role,
            "holds": holds[role],
            "receives": [_MEANING[n] for n in FIELD_CLASSES if n in TRUST_MAP[role] - unsent],
            "never": never[role],
        }
        for role in ROLES
    ]
    fields = [
        {
            "message": name,
            "field": spec.name,
            "class": spec.field_class,
            "from": sorted(message.senders),
            "to": sorted(message.receivers),
        }
        for name, message in MESSAGES.items()
        for spec in field_specs(message)
    ]
    return {"roles": roles, "fields": fields}
