"""Adding contributions under encryption; server and authority do it independently and compare the digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from privacy.canonical import canonical_json
from privacy.errors import AggregationError
from privacy.secagg.ciphertexts import WORD, add_residues, parse_residues
from privacy.secagg.contribution import Contribution, ContributionHeader
from privacy.secagg.parameters import CkksParameters

__all__ = ["set_digest", "sum_contributions", "sum_digest"]


class Named(Protocol):
    """A contribution, or what is remembered of one."""

    @property
    def header(self) -> ContributionHeader:
        """By whom, for which sum."""

    @property
    def digest(self) -> str:
        """Names this very contribution."""


def sum_contributions(params: CkksParameters, contributions: Iterable[Contribution]) -> list[bytes]:
    """The ciphertexts of the sum of contributions that passed every check; their order is irrelevant.

    Needs no key of any kind, and holds one contribution at a time beside the sum.

    Raises:
        AggregationError: if there are none, two of one client, or they are not for one and the same sum.
    """
    totals: list[np.ndarray] = []
    headers: list[ContributionHeader] = []
    for contribution in contributions:
        headers.append(contribution.header)
        parts = [parse_residues(params, data) for data in contribution.ciphertexts]
        if not totals:
            totals = parts
            continue
        check_same_sum(headers)
        totals = [add_residues(params, total, part) for total, part in zip(totals, parts, strict=True)]
    if not totals:
        raise AggregationError("encrypted sum: no contribution to add")
    return [np.ascontiguousarray(total, dtype=WORD).tobytes() for total in totals]


def check_same_sum(headers: Sequence[ContributionHeader]) -> None:
    """Raise AggregationError unless all contributions are for one sum and from distinct clients."""
    sums = {(h.run_id, h.round_id, h.key_id, h.parameters, h.length) for h in headers}
    if len(sums) != 1:
        raise AggregationError("encrypted sum: the contributions belong to different sums")
    if len({header.client for header in headers}) != len(headers):
        raise AggregationError("encrypted sum: a client contributes more than once")


def set_digest(contributions: Iterable[Named]) -> str:
    """SHA-256 (hex) that names exactly this set of contributions, whatever their order."""
    members = {contribution.header.client: contribution.digest for contribution in contributions}
    return hashlib.sha256(canonical_json(members)).hexdigest()


def sum_digest(contributions: Iterable[Named], ciphertexts: Sequence[bytes]) -> str:
    """SHA-256 (hex) of an encrypted sum and of the set of contributions it was formed from."""
    digest = hashlib.sha256(set_digest(contributions).encode("ascii"))
    for ciphertext in ciphertexts:
        digest.update(hashlib.sha256(ciphertext).digest())
    return digest.hexdigest()
