"""A release is made once: charged before its noise is drawn, stored before it is sent, replayed ever after.

Per release, in this order, each step durable before the next: a fresh secret, the ledger entry, the bytes,
and the hash of the bytes in the ledger. A crash after any of them wastes only time: the noise comes from the
secret alone, a recomputation gives the same bytes, and what was sent is never replaced by others.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Callable
from pathlib import Path

from privacy.accounting import Event
from privacy.errors import LedgerDamaged, LedgerError, LedgerRollback, ReleaseConflict
from privacy.ledger import RELEASES, Ledger
from privacy.ledger_state import ReleaseRecord
from privacy.policy import check_name
from privacy.randomness import SECRET_BYTES, NoiseSource, fresh_secret, reproducible_secret
from privacy.storage import write_durably

SECRETS = "secrets"


class ReleaseStore:
    """The releases of one run of one client, kept under its home with the ledger that pays for them.

    Args:
        home: the client's directory, the one of its ledger.
        ledger: open, with the run enrolled.
        run_id: the run.
        insecure_seed: derive secrets from this seed instead of the operating system. Whoever knows the seed
            can subtract the noise, so the run must have been enrolled with `insecure_noise`.

    Raises:
        LedgerError: the run is not enrolled, or a seed is given for a run enrolled without `insecure_noise`.
    """

    def __init__(
        self, home: str | Path, ledger: Ledger, run_id: str, insecure_seed: int | None = None
    ) -> None:
        if insecure_seed is not None and not ledger.run(run_id).insecure_noise:
            raise LedgerError(f"run {run_id}: noise from a seed was not agreed at enrolment")
        self._ledger = ledger
        self._run_id = check_name("run id", ledger.run(run_id).run_id)
        self._seed = insecure_seed
        self._secrets = Path(home) / SECRETS / run_id
        self._releases = Path(home) / RELEASES / run_id
        for folder in (self._secrets, self._releases):
            for leftover in folder.glob(".*.part"):  # of a write that a crash cut short
                leftover.unlink(missing_ok=True)

    def release(
        self, name: str, round: int, inputs: bytes, event: Event, produce: Callable[[NoiseSource], bytes]
    ) -> bytes:
        """Make a release, or hand out again the one that was made.

        Args:
            name: of a release in the enrolled plan.
            round: from 0, below the planned rounds.
            inputs: canonical description of everything that `produce` depends on, hashes of the data and of
                what the server broadcast included. Only a keyed hash of it is stored.
            event: the mechanism of this round, as planned.
            produce: computes the bytes that leave the client, a function of the inputs and of the noise
                source alone. Not called for a replay.

        Returns:
            The bytes to send: for the same inputs always the same.

        Raises:
            ReleaseConflict: this release was made from other inputs, or cannot be made identically again.
            BudgetError: it is not in the plan, or the budget is spent.
            LedgerDamaged: stored bytes or the stored secret are not those that the ledger knows.
            LedgerRollback: bytes are stored of a release that the ledger does not know.
            LedgerError: the secret of a charged release is missing, or the run is sealed.
        """
        made = self._ledger.release_record(self._run_id, name, round)
        if made is None:
            secret = self._charge(name, round, inputs, event)
        else:
            secret = self._secret_of(made)
            if made.event != event or not hmac.compare_digest(made.inputs, _keyed_digest(secret, inputs)):
                raise ReleaseConflict(
                    f"{self._named(name, round)}: was made from other inputs; it is made once"
                )
            stored = self._stored(made)
            if stored is not None:
                return stored
        return self._produce(name, round, secret, produce, made.output if made else None)

    def is_made(self, name: str, round: int) -> bool:
        """Whether the bytes of this release are stored and in the ledger, so that they may have been sent."""
        made = self._ledger.release_record(self._run_id, name, round)
        return made is not None and made.output is not None

    def seal(self) -> None:
        """End the run: no release is made any more, and the secrets are destroyed, so that not even a thief
        of this directory can subtract the noise. Stored bytes stay; they cannot be released again."""
        self._ledger.seal_run(self._run_id)
        shutil.rmtree(self._secrets, ignore_errors=True)

    def _charge(self, name: str, round: int, inputs: bytes, event: Event) -> bytes:
        self._ledger.check_release(self._run_id, name, round, event)
        if self._bytes_path(name, round).exists():
            raise LedgerRollback(f"{self._named(name, round)}: is stored, but the ledger does not know it")
        if self._seed is None:
            secret = fresh_secret()
        else:
            secret = reproducible_secret(self._seed, self._ledger.party, name, str(round))
        # A secret without an entry is left from a crash: nothing was drawn from it, and it may be replaced.
        write_durably(self._secret_path(name, round), secret)
        self._ledger.record(
            self._run_id, name, round, _keyed_digest(secret, inputs), event, _commitment(secret)
        )
        return secret

    def _produce(
        self,
        name: str,
        round: int,
        secret: bytes,
        produce: Callable[[NoiseSource], bytes],
        expected: str | None,
    ) -> bytes:
        data = produce(NoiseSource(secret, f"release/{name}/{round}"))
        if not isinstance(data, bytes):
            raise TypeError(f"release {name!r}: produce must return bytes, not {type(data).__name__}")
        digest = hashlib.sha256(data).hexdigest()
        if expected is not None and digest != expected:
            raise ReleaseConflict(
                f"{self._named(name, round)}: its bytes are lost and computing them "
                "again gave others; that would be a new release"
            )
        write_durably(self._bytes_path(name, round), data)
        if expected is None:
            self._ledger.record_output(self._run_id, name, round, digest)
        return data

    def _stored(self, made: ReleaseRecord) -> bytes | None:
        try:
            data = self._bytes_path(made.name, made.round).read_bytes()
        except FileNotFoundError:
            return None
        digest = hashlib.sha256(data).hexdigest()
        if made.output is None:  # a crash came between the two
            self._ledger.record_output(self._run_id, made.name, made.round, digest)
        elif digest != made.output:
            raise LedgerDamaged(f"{self._named(made.name, made.round)}: its stored bytes are damaged")
        return data

    def _secret_of(self, made: ReleaseRecord) -> bytes:
        where = self._named(made.name, made.round)
        try:
            secret = self._secret_path(made.name, made.round).read_bytes()
        except FileNotFoundError:
            raise LedgerError(f"{where}: its secret is gone; it is spent and cannot be made again") from None
        if len(secret) != SECRET_BYTES or not hmac.compare_digest(
            _commitment(secret), made.secret_commitment
        ):
            raise LedgerDamaged(f"{where}: its stored secret is damaged")
        return secret

    def _named(self, name: str, round: int) -> str:
        return f"release {name!r} round {round} of run {self._run_id}"

    def _secret_path(self, name: str, round: int) -> Path:
        return self._secrets / f"{check_name('release', name)}-{round}.key"

    def _bytes_path(self, name: str, round: int) -> Path:
        return self._releases / f"{check_name('release', name)}-{round}.bin"


def _keyed_digest(secret: bytes, inputs: bytes) -> str:
    """HMAC-SHA256 under the release's secret: tells nothing about the inputs to those who lack it."""
    return hmac.new(secret, b"mosaic-secure release inputs\0" + inputs, hashlib.sha256).hexdigest()


def _commitment(secret: bytes) -> str:
    """Binds the ledger to a secret of 256 random bits without telling it."""
    return hashlib.sha256(b"mosaic-secure release secret\0" + secret).hexdigest()
