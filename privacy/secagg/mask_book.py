"""A client's masks of one run, on its own disk: drawn once, dealt once, used for one sum a round.

<home>/masks/<run>/ holds, each mode 0600, written whole and durable before anything that follows from it
leaves: keys.json     its secret keys and seeds, drawn once
dealt.json    whose bundles it saw first, and the sealed shares of its secrets that it dealt to them
view.json     who takes part in the masks, as it signed it, and the shares of the others' secrets
unmask-<round>.json   the set of contributors that it was told first, and the shares that it gave for it

What is there is given again, and nothing else: other bundles, another view or another set are refused. So no
server learns two kinds of shares of one client from it, nor a mask of a second contribution to a round.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import AggregationError
from privacy.identity import SigningKey
from privacy.policy import check_name
from privacy.secagg.mask_terms import (
    NONCE_BYTES,
    Bundle,
    MaskTerms,
    bundle_text,
    check_certificate,
    open_bundles,
    parse_bundle,
    seed_commitment,
    sign_view,
)
from privacy.secagg.masks import add_masks, agree, derived_key
from privacy.secagg.shamir import SECRET_BYTES, SHARE_BYTES, split
from privacy.storage import write_durably

__all__ = ["MaskBook", "forget_masks"]

FOLDER = "masks"
SEAL_PURPOSE = "mosaic-secure mask shares 1"


def forget_masks(home: Path, run_id: str) -> None:
    """Remove every secret of a run's masks from a client's home, if there is any."""
    shutil.rmtree(home / FOLDER / check_name("run id", run_id), ignore_errors=True)


class MaskBook:
    """The masks of one client in one run.

    Args:
        home: the client's directory. client: its id. key: its identity.
        terms: of the run, by its own plan and policy.

    Raises:
        AggregationError: the client is not on the roster of the terms.
    """

    def __init__(self, home: str | Path, client: str, key: SigningKey, terms: MaskTerms) -> None:
        if terms.roster.get(client) != key.public:
            raise AggregationError(f"masks of run {terms.run_id}: {client} is not on the pinned roster")
        self._folder = Path(home) / FOLDER / check_name("run id", terms.run_id)
        self._client, self._key, self._terms = client, key, terms

    def __repr__(self) -> str:
        return f"MaskBook({self._client!r}, {self._terms.run_id!r})"

    def bundle(self) -> tuple[str, bytes]:
        """The public keys of the run and their signature; the keys are drawn when it is asked for first."""
        if not self._path("keys").exists():
            drawn = {
                "share_key": os.urandom(SECRET_BYTES).hex(),
                "rounds": {
                    round_id: {"key": os.urandom(SECRET_BYTES).hex(), "seed": os.urandom(SECRET_BYTES).hex()}
                    for round_id in self._terms.rounds
                },
            }
            self._keep("keys", drawn)
        text = bundle_text(
            self._terms,
            self._client,
            _public(self._share_key),
            {round_id: _public(self._secret(round_id, "key")) for round_id in self._terms.rounds},
            {round_id: seed_commitment(self._secret(round_id, "seed")) for round_id in self._terms.rounds},
        )
        return text, self._key.sign(text.encode("ascii"))

    def deal(self, texts: Sequence[str], signatures: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
        """Shares of all its secrets, sealed to each client whose bundle is here.

        Returns:
            Clients, sorted, and what is for each of them.

        Raises:
            AggregationError: a bundle is wrong, its own is not among them, they are fewer than the threshold,
                or others than the first time.
        """
        bundles = open_bundles(texts, signatures, self._terms)
        if bundles.get(self._client) is None or bundles[self._client].text != self.bundle()[0]:
            raise AggregationError(
                f"masks of run {self._terms.run_id}: its own keys are not among the bundles"
            )
        if len(bundles) < self._terms.threshold:
            raise AggregationError(
                f"masks of run {self._terms.run_id}: {len(bundles)} clients offer keys, must be at least "
                f"{self._terms.threshold}"
            )
        seen = {client: bundle.text for client, bundle in bundles.items()}
        dealt = self._kept("dealt")
        if dealt is None:
            sealed = self._deal(bundles)
            dealt = self._keep("dealt", {"bundles": seen, "sealed": sealed})
        if dealt["bundles"] != seen:
            raise AggregationError(
                f"masks of run {self._terms.run_id}: shares were dealt to other keys; refused"
            )
        sealed = dealt["sealed"]
        return list(bundles), [bytes.fromhex(sealed[client]) for client in bundles]

    def join(self, senders: Sequence[str], sealed: Sequence[bytes]) -> bytes:
        """Keep what others sealed to it, and sign that `senders` are those who take part in the masks.

        A share that does not open is one that it cannot give later; whoever dealt it harms itself alone.

        Raises:
            AggregationError: a sender's bundle was not among those it dealt to, it is not a sender itself,
                they are fewer than the threshold, or others than the first time.
        """
        dealt = self._kept("dealt")
        where = f"masks of run {self._terms.run_id}"
        if dealt is None:
            raise AggregationError(f"{where}: nothing was dealt yet")
        if list(senders) != sorted(set(senders)) or not set(senders) <= set(dealt["bundles"]):
            raise AggregationError(
                f"{where}: who takes part must be clients that it dealt to, each once, sorted"
            )
        if self._client not in senders or len(senders) < self._terms.threshold or len(sealed) != len(senders):
            raise AggregationError(
                f"{where}: {len(senders)} clients take part; must be at least {self._terms.threshold}, this "
                "one among them, with a box of each"
            )
        if self._kept("view") is None:
            shares = {
                sender: self._open(parse_bundle(dealt["bundles"][sender]), data).hex()
                for sender, data in zip(senders, sealed, strict=True)
            }
            self._keep("view", {"senders": list(senders), "shares": shares})
        if self._view["senders"] != list(senders):
            raise AggregationError(f"{where}: it has signed that others take part; refused")
        return sign_view(self._terms, self.members, self._key)

    @cached_property
    def members(self) -> dict[str, Bundle]:
        """Bundles of those who take part in the masks; raises AggregationError before `join`."""
        senders, bundles = self._view["senders"], self._needed("dealt")["bundles"]
        return {client: parse_bundle(bundles[client]) for client in senders}

    def check_certificate(self, signers: Sequence[str], signatures: Sequence[bytes]) -> None:
        """Raise AggregationError unless as many clients as the threshold have signed the view it is in."""
        check_certificate(self._terms, self.members, signers, signatures)

    def check_open(self, round_id: str, contributed: bool) -> None:
        """Refuse a first contribution to a round whose set is settled: shares of its mask key may be out.

        Raises:
            AggregationError: it was told of a set for this round, and has contributed nothing.
        """
        if not contributed and self._kept(f"unmask-{round_id}") is not None:
            raise AggregationError(f"round {round_id}: its contributors are settled, without this client")

    def mask(self, round_id: str, values: np.ndarray) -> np.ndarray:
        """The noised integers of a round under its masks, int64 of the same length in [-M/2, M/2)."""
        seed, private = self._secret(round_id, "seed"), self._secret(round_id, "key")
        return add_masks(self._terms, round_id, values, self._client, seed, private, self.members)

    def reveal(self, round_id: str, contributors: Sequence[str], contributed: bool) -> list[bytes]:
        """Its shares for the sum of `contributors`: of each contributor's seed, of each other member's mask
        key.

        Args:
            contributors: sorted ids. contributed: whether it has made a contribution to this round.

        Returns:
            One share for each member, sorted by id; empty where it holds none.

        Raises:
            AggregationError: fewer than the threshold, no members, it is among them wrongly or missing, or it
                was told of another set before.
        """
        chosen, members = list(contributors), self.members
        self._terms.length(round_id)
        if chosen != sorted(set(chosen)) or not set(chosen) <= set(members):
            raise AggregationError(
                f"round {round_id}: contributors must be members of the masks, each once, sorted"
            )
        if len(chosen) < self._terms.threshold:
            raise AggregationError(
                f"round {round_id}: {len(chosen)} contributors, must be at least {self._terms.threshold}"
            )
        if (self._client in chosen) != contributed:
            raise AggregationError(f"round {round_id}: whether this client contributed is not as it was told")
        name = f"unmask-{round_id}"
        answer = self._kept(name)
        if answer is None:
            shares = {member: self._share(member, round_id, member in chosen).hex() for member in members}
            answer = self._keep(name, {"contributors": chosen, "shares": shares})
        if answer["contributors"] != chosen:
            raise AggregationError(f"round {round_id}: it gave shares for other contributors; refused")
        return [bytes.fromhex(answer["shares"][member]) for member in sorted(members)]

    @property
    def _share_key(self) -> bytes:
        return bytes.fromhex(self._keys["share_key"])

    def _secret(self, round_id: str, kind: str) -> bytes:
        self._terms.length(round_id)
        return bytes.fromhex(self._keys["rounds"][round_id][kind])

    @cached_property
    def _keys(self) -> dict[str, Any]:
        return self._needed("keys")

    @cached_property
    def _view(self) -> dict[str, Any]:
        return self._needed("view")

    def _deal(self, bundles: Mapping[str, Bundle]) -> dict[str, str]:
        """Sealed shares by client, hex: for each round, sorted by id, of the mask key and of the seed."""
        points = {client: self._terms.point(client) for client in bundles}
        parts: dict[str, list[bytes]] = {client: [] for client in bundles}
        for round_id in sorted(self._terms.rounds):
            for kind in ("key", "seed"):
                secret = self._secret(round_id, kind)
                shares = split(secret, self._terms.threshold, list(points.values()))
                for client, point in points.items():
                    parts[client].append(shares[point])
        return {
            client: self._seal(bundles[client], b"".join(shares)).hex() for client, shares in parts.items()
        }

    def _seal(self, receiver: Bundle, shares: bytes) -> bytes:
        key, context = self._seal_key(receiver, self._client, receiver.client)
        nonce = os.urandom(NONCE_BYTES)
        return nonce + ChaCha20Poly1305(key).encrypt(nonce, shares, context)

    def _open(self, sender: Bundle, data: bytes) -> bytes:
        """What `sender` sealed to this client; empty where that does not open."""
        key, context = self._seal_key(sender, sender.client, self._client)
        if len(data) != self._terms.box_bytes:
            return b""
        try:
            return ChaCha20Poly1305(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
        except InvalidTag:
            return b""

    def _seal_key(self, other: Bundle, sender: str, receiver: str) -> tuple[bytes, bytes]:
        context = self._terms.context(SEAL_PURPOSE, sender=sender, receiver=receiver)
        return derived_key(agree(self._share_key, other.share_key), context), context

    def _share(self, member: str, round_id: str, contributed: bool) -> bytes:
        """Of the seed of who contributed, of the mask key of who did not."""
        shares = bytes.fromhex(self._view["shares"][member])
        start = SHARE_BYTES * (2 * sorted(self._terms.rounds).index(round_id) + contributed)
        return shares[start : start + SHARE_BYTES]

    def _path(self, name: str) -> Path:
        return self._folder / f"{check_name('masks', name)}.json"

    def _keep(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Store `content` unless something is stored already; returns what is stored."""
        with suppress(FileExistsError):
            write_durably(self._path(name), canonical_json(content), replace=False)
        return self._needed(name)

    def _needed(self, name: str) -> dict[str, Any]:
        found = self._kept(name)
        if found is None:
            raise AggregationError(f"masks of run {self._terms.run_id}: this client has not come so far")
        return found

    def _kept(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        try:
            return parse_canonical(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise AggregationError(
                f"{path}: cannot be read; this client cannot take part in the run"
            ) from None


def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
