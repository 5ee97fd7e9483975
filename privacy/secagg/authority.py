"""The key authority: a role of its own that holds the secret key of a run and decrypts sums, never anything
else.

It takes the clients' signed contributions, never a sum: anyone can encrypt under the public key, so a sum
says nothing about who is in it. It checks each signature against the roster, adds them itself, stores which
set it is about to decrypt, and decrypts that one set of a round. Keys live for one run. Only used slots leave
it, rounded to whole numbers, at least 2^10 times the decoding error. That is a mitigation of key leakage
through decryptions (Li and Micciancio, 2020/1533), not a proof against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from privacy.errors import AggregationError, LedgerError, LedgerRollback
from privacy.heads import Anchor, Head
from privacy.identity import SigningKey
from privacy.secagg.aggregation import set_digest, sum_contributions, sum_digest
from privacy.secagg.ciphertexts import generate_keys
from privacy.secagg.contribution import (
    Accepted,
    Contribution,
    Expectation,
    accept_contributions,
    open_accepted,
    open_contribution,
)
from privacy.secagg.packing import ImplausibleSum, decrypt_integers
from privacy.secagg.parameters import CkksParameters
from privacy.secagg.results import DecryptedSum, PublicKeyInfo, key_name, terms_digest, values_digest
from privacy.secagg.spool import Spool
from privacy.secagg.terms import checked_terms
from privacy.secagg.vault import Vault, check_name

__all__ = ["KeyAuthority"]

MOST_RECEIVED = 2  # contributions kept for a round, by client: one each, and room for as many contradictions
NAMED_IN_ERROR = 10  # refused contributions listed in one line


class KeyAuthority:
    """The key authority on its own machine.

    Args:
        home: its directory; the only place where a secret key is ever written (mode 0600).
        key: its signing identity, which clients pin in their policies.
    """

    def __init__(self, home: str | Path, key: SigningKey) -> None:
        self._vault = Vault(Path(home))
        self._key = key

    def __repr__(self) -> str:
        return f"KeyAuthority({str(self._vault.home)!r})"

    @property
    def public(self) -> bytes:
        """Its 32-byte public signing key."""
        return self._key.public

    def open_run(
        self,
        run_id: str,
        params: CkksParameters,
        roster: Mapping[str, bytes],
        min_contributors: int,
        rounds: Mapping[str, int],
        agreement: str,
    ) -> PublicKeyInfo:
        """Fix the terms of a run and draw its key pair; asked again with the same terms, return the same key.

        Args:
            run_id: id of the run.
            params: CKKS parameters; their capacity must fit all contributors.
            roster: client id -> 32-byte public key, both distinct.
            min_contributors: fewest valid contributions to decrypt a sum of, from 2 to the size of the
                roster.
            rounds: round id -> integers in the vector; each is decrypted at most once.
            agreement: SHA-256 (64 hex digits) of whatever else all contributors must have agreed to. The
                authority signs it with the key, so nobody contributes under this key who holds another plan:
                where noise is shared, each relies on the noise of the others.

        Raises:
            AggregationError: for terms out of range, other terms than before, or a closed run.
        """
        terms = checked_terms(run_id, params, roster, min_contributors, rounds, agreement)
        digest = terms_digest(roster, min_contributors, rounds, agreement)
        with self._vault.locked():
            stored = self._vault.run(run_id)
            if stored is None:
                public, secret = generate_keys(params)
                key_id = key_name(public)
                signature = self._key.sign(PublicKeyInfo.message(run_id, params, digest, key_id))
                stored = {**terms, "key_id": key_id, "signature": signature.hex()}
                self._vault.save_run(run_id, stored, public, secret)
            elif {name: stored.get(name) for name in terms} != terms:
                raise AggregationError(
                    f"run {run_id}: is open on other terms (roster, parameters, rounds, minimum, plan); "
                    "use a new run id"
                )
            if self._vault.is_closed(run_id):
                raise AggregationError(
                    f"run {run_id}: is closed and its secret key destroyed; use a new run id"
                )
            public = self._vault.public_context(run_id)
        info = PublicKeyInfo(
            run_id, params, digest, str(stored["key_id"]), public, bytes.fromhex(str(stored["signature"]))
        )
        info.check(self.public)
        return info

    def receive(self, run_id: str, round_id: str, contributions: Iterable[bytes]) -> list[str]:
        """Check contributions to a round and set them aside for `decrypt`, so that they may come in parts.

        Those to other rounds of the run are dropped. What is set aside is on this machine's disk until the
        round is decided, the next one begins, or the run is closed.

        Returns:
            The names under which `received` finds them, in their order.

        Raises:
            AggregationError: unknown run or round, closed run, or more contributions than `MOST_RECEIVED` for
                each client of the roster; all of them are dropped then.
            ContributionError: one is not valid; those before it are kept.
        """
        names = []
        with self._vault.locked():
            _, expected, roster = self._expected(run_id, round_id)
            if self._vault.is_closed(run_id):
                raise AggregationError(f"run {run_id}: is closed and its secret key destroyed")
            self._vault.drop_received(run_id, but=round_id)
            spool = self._vault.received(run_id, round_id)
            for data in contributions:
                open_contribution(data, expected, roster)
                if Spool.name(data) not in spool and len(spool) >= MOST_RECEIVED * len(roster):
                    spool.clear()
                    raise AggregationError(
                        f"round {round_id} of run {run_id}: more than {MOST_RECEIVED * len(roster)} "
                        f"contributions of {len(roster)} clients; all are dropped, send them again"
                    )
                names.append(spool.put(data))
        return names

    def received(self, run_id: str, round_id: str, names: Sequence[str]) -> Sequence[bytes]:
        """Contributions that were set aside, by their names; they are read when `decrypt` needs them.

        Raises:
            AggregationError: unknown run or round, or one of them is not here or named twice.
        """
        self._expected(run_id, round_id)
        return self._vault.received(run_id, round_id).pick(names)

    def decrypt(
        self, run_id: str, round_id: str, contributions: Sequence[bytes], magnitude_bound: int
    ) -> DecryptedSum:
        """Add the valid contributions and decrypt the sum of the round, once.

        Args:
            run_id, round_id: a round that the run was opened with.
            contributions: signed contributions as the clients sent them, in any order. They are read twice,
                one at a time, so they need not be in memory (`received`).
            magnitude_bound: largest |sum| that honest contributors can reach.

        Returns:
            The signed sum. The same set asked for again gives the stored one.

        Raises:
            AggregationError: unknown run or round; fewer than the minimum of valid contributions (nothing is
                stored, more may be sent); another set or bound than the first time; or the round is aborted,
                for good, because a slot of the sum is out of range or no whole number.
        """
        with self._vault.locked():
            run, expected, roster = self._expected(run_id, round_id)
            where = f"round {round_id} of run {run_id}"
            expected.params.check_capacity(magnitude_bound, len(roster))
            accepted, rejected = accept_contributions(contributions, expected, roster)
            if len(accepted) < run["min_contributors"]:
                refused = "".join(
                    f"; {client}: {code}" for client, code in list(rejected.items())[:NAMED_IN_ERROR]
                )
                raise AggregationError(
                    f"{where}: {len(accepted)} valid contributions, must be at least "
                    f"{run['min_contributors']}{refused}"
                )
            request = {"schema_version": 1, "set": set_digest(accepted), "bound": magnitude_bound}
            request["contributors"] = [contribution.header.client for contribution in accepted]
            if self._vault.claim(run_id, round_id, request) != request:
                raise AggregationError(f"{where}: another set of contributions was decrypted for it; refused")
            if self._vault.outcome(run_id, round_id) is None:
                opened = open_accepted(contributions, accepted, expected, roster)
                self._decide(expected, accepted, opened, rejected, magnitude_bound)
            self._vault.received(run_id, round_id).clear()
            return self._decided(run_id, round_id)

    def countersign(self, client: str, public: bytes, head: Head) -> Anchor:
        """Confirm the newest head of a client's ledger, durably, so that an older copy can be told from it.

        Args:
            client: id of the ledger's owner.
            public: its 32-byte public key.
            head: the newest head of its ledger.

        Raises:
            LedgerError: if the head is not signed with `public`.
            LedgerRollback: if a newer head was confirmed, or another one with the same number.
        """
        check_name("client", client)
        with self._vault.locked():
            anchors = self._vault.anchors()
            anchor = Anchor.create(self._key, client, public, head)
            if public.hex() in anchors:
                last = Anchor.from_dict(anchors[public.hex()])
                if last.authority != self.public or not last.is_authentic:
                    raise LedgerError(f"stored anchor of {client}: is damaged; restore it from a backup")
                if (head.sequence, head.digest) != (
                    last.sequence,
                    last.digest,
                ) and head.sequence <= last.sequence:
                    raise LedgerRollback(
                        f"ledger of {client}: head {head.sequence} is offered, but another head with number "
                        f"{last.sequence} was confirmed before; the ledger was rolled back or copied"
                    )
            self._vault.save_anchors({**anchors, public.hex(): anchor.to_dict()})
        return anchor

    def close_run(self, run_id: str) -> None:
        """Destroy the secret key of a run; its stored sums remain. May be repeated."""
        with self._vault.locked():
            if self._vault.run(run_id) is None:
                raise AggregationError(f"run {run_id}: is not open at this authority")
            self._vault.destroy_secret(run_id)

    def _expected(
        self, run_id: str, round_id: str
    ) -> tuple[dict[str, object], Expectation, dict[str, bytes]]:
        """The stored terms of a run, what they ask of a contribution to the round, and the roster."""
        run = self._vault.run(run_id)
        if run is None:
            raise AggregationError(f"run {run_id}: is not open at this authority")
        if check_name("round_id", round_id) not in run["rounds"]:
            raise AggregationError(
                f"round {round_id}: is not among the rounds that run {run_id} was opened with"
            )
        params = CkksParameters.from_dict(run["parameters"])
        roster = {client: bytes.fromhex(public) for client, public in run["roster"].items()}
        return run, Expectation(run_id, round_id, run["key_id"], params, run["rounds"][round_id]), roster

    def _decide(
        self,
        expected: Expectation,
        accepted: Sequence[Accepted],
        opened: Iterable[Contribution],
        rejected: Mapping[str, str],
        bound: int,
    ) -> None:
        """Decrypt the claimed set and store the sum, or that and why the round is aborted."""
        run_id, round_id, params = expected.run_id, expected.round_id, expected.params
        total = sum_contributions(params, opened)
        digest = sum_digest(accepted, total)
        contributors = tuple(contribution.header.client for contribution in accepted)
        outcome = {
            "schema_version": 1,
            "contributors": list(contributors),
            "sum_digest": digest,
            "rejected": dict(rejected),
        }
        secret = self._vault.secret_context(run_id)
        try:
            values = decrypt_integers(secret, params, total, expected.length, bound)
        except ImplausibleSum as error:
            self._vault.save_outcome(run_id, round_id, {**outcome, "aborted": str(error)}, b"")
            return
        message = DecryptedSum.message(
            run_id, round_id, values_digest(values), contributors, digest, rejected
        )
        outcome["signature"] = self._key.sign(message).hex()
        self._vault.save_outcome(run_id, round_id, outcome, values.astype("<i8").tobytes())

    def _decided(self, run_id: str, round_id: str) -> DecryptedSum:
        stored = self._vault.outcome(run_id, round_id)
        outcome, values = stored
        if outcome.get("aborted"):
            raise AggregationError(f"round {round_id} of run {run_id} is aborted: {outcome['aborted']}")
        return DecryptedSum(
            run_id,
            round_id,
            np.frombuffer(values, dtype="<i8").astype(np.int64),
            tuple(outcome["contributors"]),
            outcome["sum_digest"],
            outcome["rejected"],
            bytes.fromhex(outcome["signature"]),
        )
