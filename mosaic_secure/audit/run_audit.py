"""An audit of a sealed run: every attack there is, the verdict, and what they leave in ``audits/ID``."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attacks.onerun import ApproximateDP, Guesses, chance_of_guesses, epsilon_lower_bound
from mosaic_secure import __version__
from mosaic_secure.audit.records import public_records, run_config
from mosaic_secure.audit.server_view import Check, check_server_view
from mosaic_secure.audit.verdict import FAMILY_WISE_ERROR, Verdict, decide
from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.report.audit_page import audit_page
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document, jsonable
from privacy.storage import make_private_directory, sync_directory, write_durably

if TYPE_CHECKING:
    from attacks.summary import Summary
    from mosaic_secure.audit.rehearsal import Rehearsal

__all__ = ["REPORT", "Audit", "AuditRequest", "audit"]

REPORT = "report.html"
SUMS = "canaries in the prototype sums"
NOISE = "canaries against the planned noise of the sums"
PROMISED = "The noise that the plan promises in the decrypted sums"
CONFIDENCE = 1 - FAMILY_WISE_ERROR
MOST_CANARIES = 5000
GUESSED = 0.8  # of the canaries, half of them as in and half as out; fixed here, before any result
NOT_TESTED = (
    "LiRA and RMIA with shadow models, on the global model and on single clients' classifiers",
    "shadow generators for the synthetic records",
    "model inversion",
    "canaries in the class counts, the sums of images, the classifiers, the generators, the synthetic "
    "records and the final model",
    "attempts to decrypt with what the server holds",
)


@dataclass(frozen=True)
class AuditRequest:
    """What is asked of an audit.

    Attributes:
        claim: the epsilon to test; None takes the run's.
        retrain: make a fresh run with canaries.
        canaries: how many, >= 10.
        seed: of everything that an audit draws, >= 0; None draws one, which nobody can know before.
        data_root: where the data lie; None takes the run's place.
    """

    claim: float | None = None
    retrain: bool = False
    canaries: int = 500
    seed: int | None = None
    data_root: str | None = None


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        path: ``RUN/audits/ID``. run: the run directory.
        claim, delta: what was tested. epsilon: the run's own.
        verdict, checks: see their classes.
        membership, synthetic: attack -> what its scores amount to.
        rehearsal: the fresh run with canaries, if one was made.
        provable: the largest epsilon that so many canaries prove at `CONFIDENCE`, if all guesses are right.
        not_tested: what this audit has not looked at.
        request: what was asked. run_manifest: of the run. when: UTC, to the minute.
    """

    path: Path
    run: str
    claim: float
    epsilon: float
    delta: float
    verdict: Verdict
    checks: tuple[Check, ...]
    membership: Mapping[str, Summary]
    synthetic: Mapping[str, Summary]
    rehearsal: Rehearsal | None
    provable: float | None
    not_tested: tuple[str, ...]
    request: AuditRequest
    run_manifest: Mapping[str, Any]
    when: str

    def to_dict(self) -> dict[str, Any]:
        """For audit.json and ``--json``."""
        made = self.rehearsal
        return jsonable(
            {
                "schema_version": 1,
                "verdict": self.verdict.outcome,
                "sentence": self.verdict.sentence,
                "when": self.when,
                "run": self.run,
                "run_id": self.run_manifest["run_id"],
                "run_digest": self.run_manifest["digest"],
                "config_hash": self.run_manifest["config_hash"],
                "request": asdict(self.request),
                "epsilon_claimed": self.claim,
                "epsilon_of_the_run": self.epsilon,
                "delta": self.delta,
                "epsilon_lower_bound": None if made is None else made.lower_bound,
                "epsilon_provable_at_most": self.provable,
                "confidence": CONFIDENCE,
                "family_wise_error": FAMILY_WISE_ERROR,
                "p_values": dict(self.verdict.adjusted),
                "canaries": None if made is None else asdict(made.guesses),
                "canaries_against_noise": None if made is None else asdict(made.noise_guesses),
                "sums_seen": None if made is None else made.rounds,
                "checks": [asdict(check) for check in self.checks],
                "membership": {name: found.to_dict() for name, found in self.membership.items()},
                "synthetic": {name: found.to_dict() for name, found in self.synthetic.items()},
                "not_tested": list(self.not_tested),
                "mosaic_secure": __version__,
            }
        )


def audit(path: str | Path, request: AuditRequest, progress: ProgressCallback | None = None) -> Audit:
    """Audit a sealed run on public data and leave the result in a folder of its own beside it.

    Raises:
        UserError: the run cannot be audited, or the request does not fit; one line says why.
        PrivacyError: a rehearsal is refused.
    """
    from mosaic_secure.audit.described import describe_model, describe_synthetic

    tell = progress or (lambda _: None)
    run = RunDirectory.open(path)
    config = run_config(run, request.data_root)
    statement = run.read_json("privacy.json")
    epsilon, delta = float(statement["epsilon"]), float(statement["delta"])
    claim = _claim(request, epsilon)
    if request.seed is None:
        request = replace(request, seed=secrets.randbits(32))
    _check(request, config, claim, delta)
    with _working_folder(run.path) as folder:
        tell(Progress("what the server saw", 0, 1))
        checks = check_server_view(run, tuple(p for p in run.path.resolve().parent.iterdir() if p.is_dir()))
        tell(Progress("what the server saw", 1, 1))
        records = public_records(run, request.data_root, seed=request.seed)
        tell(Progress("membership", 0, 2, note="the global model"))
        membership = {"confidence of the global model": describe_model(run, records, epsilon, delta)}
        tell(Progress("membership", 1, 2, note="synthetic records"))
        synthetic = describe_synthetic(run, records, epsilon, delta, seed=request.seed)
        tell(Progress("membership", 2, 2))
        rehearsal = _rehearse(config, request, claim, folder.path, progress) if request.retrain else None
        p_values, not_tested = {}, NOT_TESTED
        if rehearsal is not None and _can_refute(request.canaries, claim, delta):
            p_values[SUMS] = rehearsal.chance
        elif rehearsal is not None:
            not_tested += (
                f"epsilon {claim:.4g} itself: so many canaries cannot refute it, all guesses right",
            )
        if rehearsal is not None and rehearsal.noise_chance is not None:
            p_values[NOISE] = rehearsal.noise_chance
        found = Audit(
            path=folder.final,
            run=str(path),
            claim=claim,
            epsilon=epsilon,
            delta=delta,
            verdict=decide(claim, p_values, checks, {NOISE: PROMISED}),
            checks=checks,
            membership=membership,
            synthetic=synthetic,
            rehearsal=rehearsal,
            provable=epsilon_lower_bound(_all_right(request.canaries), delta, CONFIDENCE)
            if rehearsal
            else None,
            not_tested=not_tested,
            request=request,
            run_manifest=run.manifest,
            when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )
        record = found.to_dict()
        write_durably(folder.path / "audit.json", json_document(record))
        write_durably(folder.path / REPORT, audit_page(record, statement).encode())
        manifest.write(folder.path, {"sealed": True, "run_id": run.run_id, "request": asdict(request)})
        folder.keep()
    return found


def _claim(request: AuditRequest, epsilon: float) -> float:
    claim = epsilon if request.claim is None else request.claim
    if not 0 < claim < math.inf:
        said = "the run has none; name the one to test" if request.claim is None else "must be finite and > 0"
        raise UserError(f"--claim {claim:g}: {said}, such as --claim 4")
    return claim


def _check(request: AuditRequest, config: RunConfig, claim: float, delta: float) -> None:
    if not 10 <= request.canaries <= MOST_CANARIES:
        raise UserError(f"--canaries {request.canaries}: must be from 10 to {MOST_CANARIES}")
    if request.seed is None or request.seed < 0:
        raise UserError(f"--seed {request.seed}: must be 0 or more")
    if not config.is_public:
        raise UserError(
            "this run's data are private: it must be audited where they are, which this version cannot do"
        )
    if request.retrain and (config.method != "mosaic" or not config.prototypes.enabled):
        raise UserError("--retrain: its canaries are for the prototypes, and this run has none")
    if request.retrain and config.no_noise and not _can_refute(request.canaries, claim, delta):
        raise UserError(
            f"--canaries {request.canaries}: even if every guess were right, they could not refute epsilon "
            f"{claim:.4g}; {_enough(claim, delta)}"
        )


class _WorkingFolder:
    """Where an audit is made, before it has its name.

    It is locked meanwhile, so that what a killed audit left can be told and removed by the next one.
    """

    def __init__(self, audits: Path) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self.final, self.path = audits / name, audits / f".{name}"
        make_private_directory(self.path)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def keep(self) -> None:
        """Give it its name."""
        os.replace(self.path, self.final)
        sync_directory(self.final.parent)

    def close(self) -> None:
        """Remove it, unless it was kept."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _working_folder(run: Path) -> Iterator[_WorkingFolder]:
    audits = run / manifest.AUDITS
    try:
        _remove_leftovers(audits)
        folder = _WorkingFolder(audits)
    except OSError as error:
        raise UserError(f"cannot write in {run}: {error.strerror}") from error
    try:
        yield folder
    finally:
        folder.close()
        if audits.is_dir() and not any(audits.iterdir()):
            audits.rmdir()


def _remove_leftovers(audits: Path) -> None:
    for left in audits.glob(".*"):
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass  # another audit is at work
        finally:
            os.close(lock)


def _each_side(canaries: int) -> int:
    return max(1, int(GUESSED * canaries / 2))


def _all_right(canaries: int) -> Guesses:
    return Guesses(canaries, 2 * _each_side(canaries), 2 * _each_side(canaries))


def _can_refute(canaries: int, claim: float, delta: float) -> bool:
    """Whether a claim could fail at all, if every guess were right and the other test said nothing."""
    chance = chance_of_guesses(_all_right(canaries), ApproximateDP(claim, delta))
    return chance <= FAMILY_WISE_ERROR / 2


def _enough(claim: float, delta: float) -> str:
    for canaries in (100, 200, 500, 1000, 2000, 3000, 4000, MOST_CANARIES):
        if _can_refute(canaries, claim, delta):
            return f"use --canaries {canaries}"
    return "no number of canaries that is affordable here could; test a smaller --claim"


def _rehearse(
    config: RunConfig, request: AuditRequest, claim: float, folder: Path, progress: ProgressCallback | None
) -> Rehearsal:
    """A fresh run of the same configuration, whose parties live beside it and are removed with it."""
    from mosaic_secure.audit.rehearsal import rehearse

    place = folder / "rehearsal"
    here = config.to_dict()
    here["engine"] = {**here["engine"], "name": "inprocess", "device": "auto"}  # changes no result
    try:
        return rehearse(
            RunConfig.from_dict(here),
            out=place / "run",
            ledger_dir=place / "ledgers",
            canaries=request.canaries,
            each_side=_each_side(request.canaries),
            claim=claim,
            seed=request.seed,
            confidence=CONFIDENCE,
            progress=progress,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
