"""What is asked of an audit, and whether a run allows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.rates import resolvable
from attacks.summary import FALSE_ALARMS
from mosaic_secure.audit.canary_tests import SUMS, can_refute
from mosaic_secure.errors import UserError
from mosaic_secure.report.pdf import check_printer
from mosaic_secure.runs.manifest import MANIFEST

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = ["AuditRequest", "can_retrain", "check_request", "check_resolvable", "tested_claim"]

MOST_CANARIES = 5000
MOST_SHADOWS = 4096


@dataclass(frozen=True)
class AuditRequest:
    """What is asked of an audit.

    Attributes:
        claim: the epsilon to test; None takes the run's.
        retrain: make a fresh run with canaries.
        canaries: how many of each kind, >= 10.
        seed: of everything that an audit draws, >= 0; None draws one, which nobody can know before.
        data_root: where public data lie; None takes the run's place.
        data: the records of a run on private data, as its configuration lays them out. client: whose they
            are, if they are those of one client alone, in one folder a class. others: records of the same
            kind that were never trained on. out: where the audit of such a run is left; never in the run.
            ledger_dir: where its parties live; a rehearsal is charged to their ledgers.
        classifiers: attack each client's released classifier with shadow models. shadows: how many, even.
        fpr: the rate of false alarms to report first; one of `FALSE_ALARMS`, or None for 1 %.
        pdf: print the page as well.
        pipelines: whole shadow federations for the global model and the synthetic records, even; 0 for none.
    """

    claim: float | None = None
    retrain: bool = False
    canaries: int = 500
    seed: int | None = None
    data_root: str | None = None
    data: str | None = None
    client: str | None = None
    others: str | None = None
    out: str | None = None
    ledger_dir: str | None = None
    classifiers: bool = False
    shadows: int = 64
    pipelines: int = 0
    fpr: float | None = None
    pdf: bool = False


def tested_claim(request: AuditRequest, epsilon: float) -> float:
    """The epsilon to test.

    Args:
        epsilon: the run's.

    Raises:
        UserError: it is not finite and above 0.
    """
    claim = epsilon if request.claim is None else request.claim
    if not 0 < claim < math.inf:
        said = "the run has none; name the one to test" if request.claim is None else "must be finite and > 0"
        raise UserError(f"--claim {claim:g}: {said}, such as --claim 4")
    return claim


def check_request(request: AuditRequest, config: RunConfig, run: Path, claim: float, delta: float) -> None:
    """Refuse what cannot be done, before anything is looked at.

    Raises:
        UserError: one line that says what would be right.
    """
    if not 10 <= request.canaries <= MOST_CANARIES:
        raise UserError(f"--canaries {request.canaries}: must be from 10 to {MOST_CANARIES}")
    if request.seed is None or request.seed < 0:
        raise UserError(f"--seed {request.seed}: must be 0 or more")
    if not 8 <= request.shadows <= MOST_SHADOWS or request.shadows % 2:
        raise UserError(f"--shadows {request.shadows}: must be an even number from 8 to {MOST_SHADOWS}")
    if request.pipelines and (not 4 <= request.pipelines <= MOST_SHADOWS or request.pipelines % 2):
        raise UserError(
            f"--pipelines {request.pipelines}: must be 0, or an even number from 4 to {MOST_SHADOWS}"
        )
    if request.fpr is not None and request.fpr not in FALSE_ALARMS:
        known = ", ".join(f"{rate:g}" for rate in FALSE_ALARMS)
        raise UserError(f"--fpr {request.fpr:g}: must be one of {known}")
    if request.pdf:
        check_printer()
    if config.is_public:
        for name in ("data", "client", "others", "out"):
            if getattr(request, name):
                raise UserError(f"--{name}: is for private data, and this run's are public; leave it out")
    else:
        _check_private(request, run, config)
    if request.retrain and not can_retrain(config):
        raise UserError("--retrain: its canaries are for the prototypes, and this run has none")
    # Without noise nothing else is tested, and private data are not spent on a test that cannot fail.
    only = config.no_noise or not config.is_public
    if request.retrain and only and not can_refute(SUMS, request.canaries, claim, delta):
        raise UserError(
            f"--canaries {request.canaries}: even if every guess were right, they could not refute epsilon "
            f"{claim:.4g}; {_enough(claim, delta)}"
        )


def can_retrain(config: RunConfig) -> bool:
    """Whether a fresh run can have canaries: they are for encrypted sums of prototypes."""
    return config.method == "mosaic" and config.prototypes.enabled


def check_resolvable(request: AuditRequest, others: int) -> None:
    """Refuse a rate of false alarms that so many records nobody trained on cannot tell.

    Raises:
        UserError: there are too few.
    """
    if request.fpr is not None and not resolvable(others, request.fpr):
        raise UserError(
            f"--fpr {request.fpr:g}: needs {round(1 / request.fpr)} records that nobody trained on, and "
            f"there are {others}; name a larger rate"
        )


def _check_private(request: AuditRequest, run: Path, config: RunConfig) -> None:
    for name, what in (
        ("data", "the folder of its records"),
        ("others", "records of the same kind that were never trained on"),
        ("out", "a folder of its clients, since what is found is for them alone"),
    ):
        if not getattr(request, name):
            raise UserError(
                f"--{name}: this run's data are private, so it is audited where they are; name {what}"
            )
    if request.client is not None and request.client not in config.client_ids:
        raise UserError(
            f"--client {request.client}: is no client of this run; they are {config.client_ids[0]} to "
            f"{config.client_ids[-1]}"
        )
    if request.client is not None and request.retrain:
        raise UserError("--retrain: a fresh run needs the records of all clients; leave --client out")
    out, inside = Path(request.out).resolve(), run.resolve()
    if out == inside or inside in out.parents:
        raise UserError(f"--out {request.out}: lies in the run, which others may see; name another folder")
    if any((folder / MANIFEST).exists() for folder in (out, *out.parents)):
        raise UserError(f"--out {request.out}: lies in another run, which others may see; name one outside")
    if request.retrain and not request.ledger_dir:
        raise UserError(
            "--retrain: on private data it is a full second run, charged to the ledgers; name them by "
            "--ledger-dir"
        )
    if request.classifiers or request.pipelines:
        given = "classifiers" if request.classifiers else "pipelines"
        raise UserError(f"--{given}: trains on records again and again, which only public data allow")


def _enough(claim: float, delta: float) -> str:
    for canaries in (100, 200, 500, 1000, 2000, 3000, 4000, MOST_CANARIES):
        if can_refute(SUMS, canaries, claim, delta):
            return f"use --canaries {canaries}"
    return "no number of canaries that is affordable here could; test a smaller --claim"
