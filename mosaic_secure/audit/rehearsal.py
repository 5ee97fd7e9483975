"""A fresh run with canaries among the records, watched from where the server stands: epsilon from below.

Which canaries are in is drawn by fair coins before anything is trained, and how many will be guessed is fixed
before anything is seen (`canary_tests`). Canaries of two kinds go in: codes, which are looked for in every
decrypted sum, and whole records, which are looked for in what anybody may get: the released classifiers, the
final model, the synthetic records. A third kind, gradients, is looked for in one training beside the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.audit.canary_tests import (
    CLASSIFIERS,
    MODEL,
    NOISE,
    SUMS,
    SYNTHETIC,
    CanaryTest,
    against_epsilon,
    against_noise,
)
from mosaic_secure.audit.decryption import attempt_decryption
from mosaic_secure.audit.record_canaries import classifier_scores, model_scores, synthetic_scores
from mosaic_secure.audit.server_view import Check, check_server_view
from mosaic_secure.audit.sum_canaries import Evidence
from mosaic_secure.audit.training_canaries import audit_training, training_can_be_audited
from mosaic_secure.audit.witness import CanaryWitness
from mosaic_secure.engine.local import RunResult, train
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.runs.artefacts import INDEX
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.predictor import load
from mosaic_secure.runs.synthesis import GENERATORS, SAMPLER, draw

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.progress import ProgressCallback

__all__ = ["Rehearsal", "rehearse"]

SYNTHETIC_RECORDS = 4000
NAME = "the fresh run's messages"
PROMISED = "The noise that the plan promises in the decrypted sums"


@dataclass(frozen=True)
class Rehearsal:
    """What the guesses prove.

    Attributes:
        result: of the run itself.
        tests: every kind of guesses, those first that look at the sums.
        rounds: how many decrypted sums were looked at.
        checks: of what the server saw of this run, and attempts to decrypt with what it held.
    """

    result: RunResult
    tests: tuple[CanaryTest, ...]
    rounds: int
    checks: tuple[Check, ...]

    @property
    def lower_bound(self) -> float:
        """The largest epsilon that any guesses speak against."""
        return max(test.lower_bound for test in self.tests if test.lower_bound is not None)

    @property
    def provable(self) -> float:
        """The same, were all guesses right."""
        return max(test.provable for test in self.tests if test.provable is not None)


def rehearse(
    config: RunConfig,
    *,
    out: Path,
    ledger_dir: Path,
    canaries: int,
    claim: float,
    seed: int,
    progress: ProgressCallback | None = None,
) -> Rehearsal:
    """Make a run of `config` with canaries and count the guesses.

    On public data the run is free where `ledger_dir` is a place of its own. On private data it is a full
    second run: its ledgers are charged, and whether they allow it is theirs to say.

    Args:
        out: the run directory, new or empty.
        canaries: how many of each kind, >= 2, dealt to clients in turn.
        claim: the epsilon to test.
        seed: of directions, classes, labels and coins.

    Raises:
        UserError: the method has no prototypes, or the numbers do not fit.
        PrivacyError: as of `train`.
    """
    if config.method != "mosaic" or not config.prototypes.enabled:
        raise UserError("prototypes: the run has none, and these canaries are for their sums")
    if config.engine.name != "inprocess":
        raise UserError(f"engine.name = {config.engine.name!r}: what is watched runs in engine 'inprocess'")
    if canaries < 2:
        raise UserError(f"canaries = {canaries}: must be 2 or more")
    rng = np.random.default_rng(seed)
    witness = CanaryWitness(canaries, rng)
    result = train(config, out=out, ledger_dir=ledger_dir, progress=progress, witness=witness)
    tell = progress or (lambda _: None)
    tell(Progress("guesses about canaries", 0, 1))
    seen = witness.measured()
    tests = [*_of_sums(witness, seen, claim), *_of_records(witness, out, claim)]
    if config.is_public and training_can_be_audited(witness.plan):
        made = audit_training(witness.plan, claim, canaries, rng, config.data.root)
        tests += [] if made is None else [made]
    found = Rehearsal(
        result=result,
        tests=tuple(tests),
        rounds=seen.rounds,
        checks=(
            _seen(RunDirectory.open(out)),
            attempt_decryption(witness.public_context, witness.ciphertexts(), witness.plan.ckks),
        ),
    )
    tell(Progress("guesses about canaries", 1, 1))
    return found


def _seen(run: RunDirectory) -> Check:
    """All checks of what the server saw of the fresh run, as one."""
    checks = check_server_view(run)
    broken = next((check for check in checks if check.passed is False), None)
    if broken is not None:
        return Check(NAME, False, f"{broken.name}: {broken.found}")
    return Check(NAME, True, f"of the fresh run too, {len(checks)} checks of what the server saw hold")


def _of_sums(witness: CanaryWitness, seen: Evidence, claim: float) -> list[CanaryTest]:
    scores, included = seen.evidence(), witness.codes.included
    delta = witness.plan.budget.delta
    tests = [against_epsilon(SUMS, _claim(claim), scores, included, claim, delta)]
    if not math.isinf(seen.mu):
        tests.append(against_noise(NOISE, PROMISED, scores, included, seen.mu))
    return tests


def _of_records(witness: CanaryWitness, out: Path, claim: float) -> list[CanaryTest]:
    """What an outsider sees: every client's classifier, the final model, and synthetic records."""
    canaries, delta = witness.records, witness.plan.budget.delta
    if len(canaries.labels) < 2:
        return []
    run = RunDirectory.open(out)
    scores = {}
    classifiers = witness.classifiers()
    if len(classifiers) == witness.plan.config.clients.count > 1:
        scores[CLASSIFIERS] = classifier_scores(classifiers, canaries)
    scores[MODEL] = model_scores(load(run).module, canaries)
    if any(run.has(f"{folder}/{INDEX}") for folder in (SAMPLER, GENERATORS)):
        made = draw(out, SYNTHETIC_RECORDS, int(witness.rng.integers(2**31)))
        scores[SYNTHETIC] = synthetic_scores(made.images, made.labels, canaries)
    return [
        against_epsilon(name, _claim(claim), found, canaries.included, claim, delta)
        for name, found in scores.items()
    ]


def _claim(claim: float) -> str:
    return f"The claim of epsilon {claim:.4g}"
