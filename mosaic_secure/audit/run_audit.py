"""An audit of a sealed run: every attack there is, the verdict, and what they leave in ``audits/ID``."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_secure.audit.canary_tests import NOISE, WEIGHTS, CanaryTest
from mosaic_secure.audit.charged import check_ledgers
from mosaic_secure.audit.findings import Audit
from mosaic_secure.audit.records import private_records, public_records, run_config
from mosaic_secure.audit.request import (
    AuditRequest,
    can_retrain,
    check_request,
    check_resolvable,
    tested_claim,
)
from mosaic_secure.audit.server_view import check_server_view, what_was_received
from mosaic_secure.audit.verdict import decide
from mosaic_secure.audit.working_folder import SHADOWS, WorkingFolder, working_folder
from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.report.audit_page import audit_page
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document
from privacy.storage import write_durably

if TYPE_CHECKING:
    from mosaic_secure.audit.records import JudgedRecords
    from mosaic_secure.audit.rehearsal import Rehearsal
    from mosaic_secure.audit.shadow_attacks import ClassifierAttack
    from mosaic_secure.audit.shadow_pipelines import PipelineAttack

__all__ = ["REPORT", "audit"]

REPORT = "report.html"
PDF = "audit.pdf"
SEED = "seed"
WITHOUT_CLASSIFIERS = "LiRA and RMIA with shadow models on single clients' classifiers (--classifiers)"
WITHOUT_PIPELINES = (
    "LiRA and RMIA on the global model and shadow generators for the synthetic records (--pipelines)"
)
ONLY_WITH_A_REHEARSAL = (
    "canaries of any kind: without a fresh run (--retrain) the claim is not tested",
    "attempts to decrypt: ciphertexts are not kept with a run",
)
WITHOUT_CANARIES = (
    "canaries of any kind: they are for method 'mosaic' with prototypes, so the claim is not tested",
)
NOT_THE_RUN_ITSELF = (
    "the training of this very run: canaries are in a fresh run of its configuration, by the software that "
    "made this audit"
)
WITHOUT_CHECKED_RECORDS = "that the records at hand are those that the run was trained on"
NEVER_TESTED = (
    "canaries in the class counts, in the sums of images and in the training of generators",
    "attacks that break the cryptography, look at how long things take, link data sets or infer attributes",
)


def audit(path: str | Path, request: AuditRequest, progress: ProgressCallback | None = None) -> Audit:
    """Audit a sealed run and leave the result beside it, or for private data where the request says.

    Raises:
        UserError: the run cannot be audited, or the request does not fit; one line says why.
        PrivacyError: a rehearsal is refused.
    """
    from mosaic_secure.audit.described import describe_model, describe_synthetic
    from mosaic_secure.audit.inversion import invert
    from mosaic_secure.report.pictures import inversion_context

    tell = progress or (lambda _: None)
    run = RunDirectory.open(path)
    config = run_config(run, request.data_root, request.data)
    statement = run.read_json("privacy.json")
    epsilon, delta = float(statement["epsilon"]), float(statement["delta"])
    claim = tested_claim(request, epsilon)
    audits = run.path / manifest.AUDITS if config.is_public else Path(request.out or ".")
    if config.method == "local" and config.is_public and config.classifier.optimizer == "sgd":
        request = replace(request, classifiers=True)  # they are all that it has
    if request.seed is None:
        request = replace(request, seed=_seed_of_a_stopped_audit(audits) or secrets.randbits(32))
    check_request(request, config, run.path, claim, delta)
    if request.retrain and not config.is_public:
        check_ledgers(run, config, request.ledger_dir)
    with working_folder(audits) as folder:
        tell(Progress("what the server saw", 0, 1))
        checks = check_server_view(run, tuple(p for p in run.path.resolve().parent.iterdir() if p.is_dir()))
        tell(Progress("what the server saw", 1, 1))
        records = _records(run, config, request)
        check_resolvable(request, int((~records.members).sum()))
        tell(Progress("membership", 0, 2, note="the global model"))
        membership = {}
        if config.method != "local":
            membership = {"confidence of the global model": describe_model(run, records, epsilon, delta)}
        tell(Progress("membership", 1, 2, note="synthetic records"))
        synthetic = describe_synthetic(run, config, records, epsilon, delta, seed=request.seed)
        tell(Progress("membership", 2, 2))
        classifiers, pipelines = _with_shadows(run, config, request, folder, progress)
        inversion = invert(run, config, records, request.seed, progress)
        rehearsal = _rehearse(config, request, claim, folder.path, progress) if request.retrain else None
        tests = () if rehearsal is None else rehearsal.tests
        if rehearsal is not None:
            checks = (*checks, *rehearsal.checks)
        found = Audit(
            path=folder.final,
            run=str(path),
            claim=claim,
            epsilon=epsilon,
            delta=delta,
            confidential=not config.is_public,
            verdict=decide(
                claim,
                tests,
                checks,
                can_retrain=can_retrain(config),
                secure=bool(statement["randomness"]["secure"]),
            ),
            checks=checks,
            received=what_was_received(run),
            membership=membership,
            synthetic=synthetic,
            classifiers=classifiers,
            pipelines=pipelines,
            inversion=inversion,
            rehearsal=rehearsal,
            charged=rehearsal is not None and not config.is_public,
            can_retrain=can_retrain(config),
            not_tested=_not_tested(tests, request, config),
            request=request,
            run_manifest=run.manifest,
            when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )
        record = found.to_dict()
        write_durably(folder.path / "audit.json", json_document(record))
        page = audit_page(record, statement, inversion_context(inversion, records=config.is_public))
        write_durably(folder.path / REPORT, page.encode())
        if request.pdf:
            found = replace(found, not_printed=_print(page, folder.path / PDF))
        manifest.write(folder.path, {"sealed": True, "run_id": run.run_id, "request": asdict(request)})
        folder.keep()
    return found


def _records(run: RunDirectory, config: RunConfig, request: AuditRequest) -> JudgedRecords:
    if config.is_public:
        return public_records(run, request.data_root, seed=request.seed)
    return private_records(config, request.others, request.client, seed=request.seed)


def _not_tested(tests: tuple[CanaryTest, ...], request: AuditRequest, config: RunConfig) -> tuple[str, ...]:
    lacking = []
    if request.retrain:
        made = {test.name for test in tests}
        missing = [name for name in WEIGHTS if name not in made and not (name == NOISE and config.no_noise)]
        lacking += [f"{name}: this run has nothing to look for them in" for name in missing]
        lacking += [
            f"{test.tested[0].lower()}{test.tested[1:]} by {test.name}: {test.guesses.made} guesses cannot "
            "refute it, were all of them right"
            for test in tests
            if not test.counts
        ]
    return (
        *(() if request.classifiers else (WITHOUT_CLASSIFIERS,)),
        *(() if request.pipelines else (WITHOUT_PIPELINES,)),
        *_about_canaries(request, config),
        *lacking,
        *(() if config.is_public else (WITHOUT_CHECKED_RECORDS,)),
        *(() if request.client is None else (f"records of clients other than {request.client}",)),
        *NEVER_TESTED,
    )


def _about_canaries(request: AuditRequest, config: RunConfig) -> tuple[str, ...]:
    if request.retrain:
        return (NOT_THE_RUN_ITSELF,)
    return ONLY_WITH_A_REHEARSAL if can_retrain(config) else WITHOUT_CANARIES


def _print(page: str, path: Path) -> str:
    """Print the page; why not, where it fails: an audit is not lost for its paper."""
    from mosaic_secure.report.pdf import write_pdf

    try:
        write_pdf(page, path)
    except UserError as error:
        return str(error)
    return ""


def _seed_of_a_stopped_audit(audits: Path) -> int | None:
    """The seed under which shadow models were begun that nobody finished; another one would start anew."""
    try:
        return int((audits / SHADOWS / SEED).read_text("ascii"))
    except (OSError, ValueError):
        return None


def _with_shadows(
    run: RunDirectory,
    config: RunConfig,
    request: AuditRequest,
    folder: WorkingFolder,
    progress: ProgressCallback | None,
) -> tuple[dict[str, ClassifierAttack], PipelineAttack | None]:
    """Attacks that train models of their own; what they finished stays if they are stopped."""
    classifiers: dict[str, ClassifierAttack] = {}
    pipelines = None
    if request.classifiers or request.pipelines:
        write_durably(folder.shadows / SEED, str(request.seed).encode("ascii"))
    if request.classifiers:
        from mosaic_secure.audit.shadow_attacks import attack_classifiers

        classifiers = attack_classifiers(
            run, config, models=request.shadows, seed=request.seed, keep=folder.shadows, progress=progress
        )
    if request.pipelines:
        from mosaic_secure.audit.shadow_pipelines import attack_pipelines

        pipelines = attack_pipelines(
            run,
            config,
            work=folder.path,
            pipelines=request.pipelines,
            seed=request.seed,
            keep=folder.shadows,
            progress=progress,
        )
    return classifiers, pipelines


def _rehearse(
    config: RunConfig, request: AuditRequest, claim: float, folder: Path, progress: ProgressCallback | None
) -> Rehearsal:
    """A fresh run of the same configuration. Its parties live beside it and are removed with it, where the
    data are public; else they are those whose ledgers pay for it."""
    from mosaic_secure.audit.rehearsal import rehearse

    place = folder / "rehearsal"
    here = config.to_dict()
    here["engine"] = {**here["engine"], "name": "inprocess", "device": "auto"}  # changes no result
    ledgers = place / "ledgers" if config.is_public else Path(request.ledger_dir)
    try:
        return rehearse(
            RunConfig.from_dict(here),
            out=place / "run",
            ledger_dir=ledgers,
            canaries=request.canaries,
            claim=claim,
            seed=request.seed,
            progress=progress,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
