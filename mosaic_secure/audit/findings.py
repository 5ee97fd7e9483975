"""What an audit found, whole, and as it stands in audit.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_secure import __version__
from mosaic_secure.audit.canary_tests import FAMILY_WISE_ERROR
from mosaic_secure.runs.encoding import jsonable

if TYPE_CHECKING:
    from attacks.summary import Summary
    from mosaic_secure.audit.inversion import Inversion
    from mosaic_secure.audit.rehearsal import Rehearsal
    from mosaic_secure.audit.request import AuditRequest
    from mosaic_secure.audit.server_view import Check, Received
    from mosaic_secure.audit.shadow_attacks import ClassifierAttack
    from mosaic_secure.audit.shadow_pipelines import PipelineAttack
    from mosaic_secure.audit.verdict import Verdict

__all__ = ["Audit"]


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        path: ``RUN/audits/ID``, or a folder of the clients' own. run: the run directory.
        claim, delta: what was tested. epsilon: the run's own.
        confidential: whether the numbers are statistics of private records, for their clients alone.
        verdict, checks, received: see their classes.
        membership, synthetic: attack -> what its scores amount to.
        classifiers: client -> attacks on its released classifier, if they were asked for. pipelines: shadow
            federations, if they were.
        inversion: pictures that what was released makes possible.
        rehearsal: the fresh run with canaries, if one was made; `charged` if ledgers paid for it, and
            `can_retrain` if there can be one.
        not_tested: what this audit has not looked at.
        request: what was asked. run_manifest: of the run. when: UTC, to the minute.
        not_printed: why there is no PDF although one was asked for.
    """

    path: Path
    run: str
    claim: float
    epsilon: float
    delta: float
    confidential: bool
    verdict: Verdict
    checks: tuple[Check, ...]
    received: tuple[Received, ...]
    membership: Mapping[str, Summary]
    synthetic: Mapping[str, Summary]
    classifiers: Mapping[str, ClassifierAttack]
    pipelines: PipelineAttack | None
    inversion: Inversion
    rehearsal: Rehearsal | None
    charged: bool
    can_retrain: bool
    not_tested: tuple[str, ...]
    request: AuditRequest
    run_manifest: Mapping[str, Any]
    when: str
    not_printed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For audit.json and ``--json``."""
        made = self.rehearsal
        return jsonable(
            {
                "schema_version": 2,
                "verdict": self.verdict.outcome,
                "sentence": self.verdict.sentence,
                "client_confidential": self.confidential,
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
                "epsilon_provable_at_most": None if made is None else made.provable,
                "confidence": 1 - FAMILY_WISE_ERROR,
                "family_wise_error": FAMILY_WISE_ERROR,
                "p_values": dict(self.verdict.adjusted),
                "canaries": [] if made is None else [test.to_dict() for test in made.tests],
                "sums_seen": None if made is None else made.rounds,
                "charged": self.charged,
                "can_retrain": self.can_retrain,
                "checks": [asdict(check) for check in self.checks],
                "received": [asdict(row) for row in self.received],
                "membership": {name: found.to_dict() for name, found in self.membership.items()},
                "synthetic": {name: found.to_dict() for name, found in self.synthetic.items()},
                "classifiers": {name: found.to_dict() for name, found in self.classifiers.items()},
                "pipelines": None if self.pipelines is None else self.pipelines.to_dict(),
                "inversion": self.inversion.to_dict(),
                "not_tested": list(self.not_tested),
                "mosaic_secure": __version__,
            }
        )
