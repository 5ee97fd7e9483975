"""What a client keeps of a run between messages: the accepted plan, its codes, its ledger and its policy."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from mosaic_secure.client.masking import book_of
from mosaic_secure.client.own_data import Places
from mosaic_secure.client.planted import add_codes, add_records
from mosaic_secure.client.rules import check_run, client_index, ledger_population, terms_of
from mosaic_secure.client.withdrawal import check_takes_part
from mosaic_secure.config import RunConfig
from mosaic_secure.data import load_client
from mosaic_secure.errors import UserError
from mosaic_secure.plan import RunPlan
from privacy.budget import BudgetPlan
from privacy.canonical import canonical_json
from privacy.errors import LedgerError, PolicyError
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.ledger_check import LEDGER_FILE
from privacy.policy import ClientPolicy, check_name
from privacy.releases import ReleaseStore
from privacy.storage import write_durably

if TYPE_CHECKING:
    from mosaic_secure.data.records import ClientData
    from privacy.secagg.mask_book import MaskBook

__all__ = ["ClientHome", "Session", "enrol", "ledger_population"]

IDENTITY = "identity.key"
POLICY = "policy.toml"
_RUNS = "runs"
_CACHE = "cache"
_CODES = "codes.npz"
_LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class ClientHome:
    """A client's own directory: identity, policy, ledger, releases. Never part of a run directory."""

    path: Path
    party: str

    @cached_property
    def key(self) -> SigningKey:
        """The client's identity."""
        return SigningKey.load(self.path / IDENTITY)

    @cached_property
    def policy(self) -> ClientPolicy:
        """The client's own rules."""
        return ClientPolicy.load(self.path / POLICY)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, locked for as long as the block runs."""
        population = self.policy.population
        with Ledger.open(
            self.path, population, self.key, party=self.party, wait_seconds=_LOCK_SECONDS
        ) as ledger:
            yield ledger

    def cache(self, run_id: str) -> Path:
        """Where things derived from records are kept until a run is over."""
        return self.path / _CACHE / run_id

    def end(self, run_id: str) -> bool:
        """End a run here: it makes no release any more, and nothing stays of what noise and masks came from,
        or was derived from records. Ending it twice does nothing.

        Returns:
            Whether the client was enrolled in it.

        Raises:
            LedgerError: the ledger is damaged, or in use for longer than two minutes.
        """
        from privacy.secagg.mask_book import forget_masks

        check_name("run id", run_id)
        if not (self.path / LEDGER_FILE).exists():
            return False
        with self.ledger() as ledger:
            if all(run.run_id != run_id for run in ledger.runs()):
                return False
            ReleaseStore(self.path, ledger, run_id).seal()
            forget_masks(self.path, run_id)
            shutil.rmtree(self.cache(run_id), ignore_errors=True)
        return True


def enrol(
    home: ClientHome,
    run_id: str,
    config_json: str,
    plan_json: str,
    roster: dict[str, str],
    places: Places | None = None,
) -> RunPlan:
    """Check a plan against policy and ledger, and keep it; returns it. Repeating it changes nothing.

    Args:
        config_json, plan_json: the configuration and the budget, as the server sent them.
        roster: client id -> public key (hex) of all who take part; must be the policy's.
        places: where this client's records lie; those of the configuration, in a simulation, when None.

    Raises:
        PolicyError, BudgetError, LedgerError: policy or ledger refuse it.
        UserError: configuration and plan do not belong together, the client has withdrawn, or a deployed
            client has no records for such a plan.
    """
    check_takes_part(home.path, run_id)
    config = RunConfig.from_dict(json.loads(config_json))
    places = places or Places()
    places.check(config)
    plan = RunPlan.derive(config, BudgetPlan.from_dict(json.loads(plan_json)))
    policy = home.policy
    check_run(policy, plan, client_index(config, home.party), roster)
    with home.ledger() as ledger:
        ledger.enrol(run_id, plan.budget, plan.config_hash, policy, **terms_of(config))
    kept = {
        "config": json.loads(config_json),
        "plan": json.loads(plan_json),
        "roster": roster,
        "authority": policy.authority,
    }
    write_durably(home.path / _RUNS / f"{run_id}.json", canonical_json(kept))
    places.note_strangers(config, home.path)
    return plan


class Session:
    """One enrolled run at one client, which its policy still allows.

    Args:
        home: the client's directory.
        run_id: enrolled before.
        index: position of the client among the parties; decides which records are its own in a simulation.
        places: where its records lie; those of the configuration, in a simulation, when None.

    Attributes:
        config: as agreed, but for paths, which are this client's own. plan: as agreed, hashes included.

    Raises:
        UserError: the client has withdrawn from the run, or a deployed client has no records for it.
        LedgerError: the run is not enrolled here.
        PolicyError, BudgetError: the policy has become stricter since, or this cannot be the name of a run.
    """

    def __init__(self, home: ClientHome, run_id: str, index: int, places: Places | None = None) -> None:
        check_name("run id", run_id)  # it comes from the server, and becomes a path
        check_takes_part(home.path, run_id)
        self.home, self.run_id, self.index = home, run_id, index
        self._places = places or Places()
        path = home.path / _RUNS / f"{run_id}.json"
        try:
            kept: dict[str, Any] = json.loads(path.read_bytes())
        except OSError:
            raise LedgerError(f"run {run_id}: is not enrolled at this client") from None
        # Where this client's data lie is for this client to say, not for the server.
        kept["config"]["data"]["root"] = None
        agreed = RunConfig.from_dict(kept["config"])
        self._places.check(agreed)
        self.config = self._places.applied(agreed)
        self.plan = RunPlan.derive(agreed, BudgetPlan.from_dict(kept["plan"]), self._places.data_root)
        self._kept_terms = kept
        self.check_allowed()

    def check_allowed(self) -> None:
        """Raise unless the client takes part in this run and its policy, as it is now, would let it enrol.

        Cheap: the epsilon of the plan was composed at enrolment and is not composed again.

        Raises:
            Withdrawn, PolicyError, BudgetError, LedgerError: it does not, or not any more.
        """
        check_takes_part(self.home.path, self.run_id)
        policy = ClientPolicy.load(self.home.path / POLICY)
        # A run that an older version enrolled has no such terms on the disk: they were those of the policy.
        check_run(policy, self.plan, self.index, self._kept_terms.get("roster", policy.roster))
        if self._kept_terms.get("authority", policy.authority) != policy.authority:
            raise PolicyError(
                f"authority: the policy pins another one than when run {self.run_id} was enrolled"
            )
        with self.home.ledger() as ledger:
            ledger.check_policy(self.run_id, policy)

    @cached_property
    def data(self) -> ClientData:
        """The client's records; they stay here.

        How many there must be is not asked of private ones: a refusal would tell the server their number.
        """
        root, public = self._places.data_root, self.config.is_public
        own = load_client(self.config, self.index, root, require_enough=public)
        return add_records(self.home.cache(self.run_id), own)

    @cached_property
    def masks(self) -> MaskBook:
        """The client's masks of this run; raises UserError where its plan has none."""
        book = book_of(self.home, self.plan, self.run_id)
        if book is None:
            raise UserError("privacy.pairwise_masks = false: contributions to this run are not masked")
        return book

    @property
    def architecture(self) -> str:
        """The classifier that this client trains."""
        return self.config.architecture_of(self.index)

    @contextmanager
    def releases(self) -> Iterator[ReleaseStore]:
        """The store that makes releases once; the ledger is locked meanwhile."""
        insecure = self.config.seed if self.config.privacy.insecure_reproducible_noise else None
        with self.home.ledger() as ledger:
            yield ReleaseStore(self.home.path, ledger, self.run_id, insecure)

    def inputs(self, digest: str, **parts: object) -> bytes:
        """Canonical description of all that a release depends on."""
        return canonical_json({"config": self.plan.config_hash, "data": digest, **parts})

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the records as the run found them first. It stays on this machine, and is in the ledger
        under a key only.

        Were it taken anew, a release asked for again would be refused after the records have changed, and
        the server would learn of the change; so it gets the bytes that were made.
        """
        path = self._kept("records.sha256")
        try:
            return path.read_text("ascii")
        except FileNotFoundError:
            found = self._digest()
            write_durably(path, found.encode("ascii"))
            return found

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for array in (self.data.images, self.data.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def codes(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Codes [N, dim] and labels [N] of the records, and the records' digest.

        Encoding is the slow part of a prototype round, so codes are kept in the client's home until the run
        is sealed there.
        """
        path = self._kept(_CODES)
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return kept["codes"], kept["labels"], str(kept["digest"])
            except (OSError, ValueError, KeyError, BadZipFile):
                path.unlink()
        from mosaic_secure.models.encoders import encode

        codes = encode(self.plan.encoder(), self.data.images)
        codes, labels = add_codes(path.parent, codes, self.data.labels)
        buffer = io.BytesIO()
        np.savez(buffer, codes=codes, labels=labels, digest=np.array(self.data_digest))
        write_durably(path, buffer.getvalue())
        return codes, labels, self.data_digest

    def kept_array(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What `make` gives, made once: kept in the client's home until the run is sealed there."""
        path = self._kept(f"{name}.npy")
        if path.exists():
            try:
                return np.load(path, allow_pickle=False)
            except (OSError, ValueError):
                path.unlink()
        array, buffer = make(), io.BytesIO()
        np.save(buffer, array)
        write_durably(path, buffer.getvalue())
        return array

    def _kept(self, name: str) -> Path:
        """Where something derived from records is kept while the run lasts; afterwards nothing is kept."""
        with self.home.ledger() as ledger:
            if ledger.run(self.run_id).sealed:
                raise LedgerError(f"run {self.run_id}: is sealed and makes no further release")
        return self.home.cache(self.run_id) / name
