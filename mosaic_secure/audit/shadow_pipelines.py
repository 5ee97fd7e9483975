"""Shadow pipelines: whole federations like the run's, which tell what its model and its synthetic records
say about a record that was in, and about one that was not.

Records of the run's clients are judged, and as many records of the public test part; each is in half of the
pipelines, at the same client. All other records are always in. So a pipeline has about as many records of
each class at each client as the run had, and is trained exactly as the run was, by the same parties, stages
and noise.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from attacks.membership.attempts import attempts
from attacks.membership.scores import Signals, lira_offline, lira_online, logit_confidence
from attacks.summary import Summary, summarise
from attacks.synthetic.density import Directions, log_density
from attacks.synthetic.distances import nearness
from mosaic_secure import __version__
from mosaic_secure.audit.judged_halves import Judged, Planter
from mosaic_secure.audit.records import check_membership
from mosaic_secure.config import RunConfig
from mosaic_secure.engine.local import train
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.runs.artefacts import INDEX
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.predictor import load
from mosaic_secure.runs.synthesis import GENERATORS, SAMPLER, draw
from mosaic_secure.seeds import derive_seed
from privacy.canonical import canonical_json
from privacy.storage import make_private_directory, write_durably

__all__ = ["PipelineAttack", "attack_pipelines"]

FEWEST = 4
SYNTHETIC = 4000
DIRECTIONS = 8
"""Principal directions in which densities of synthetic records are estimated."""


@dataclass(frozen=True)
class PipelineAttack:
    """What shadow pipelines make of a run.

    Attributes:
        pipelines: how many. views: of each record that were asked about.
        judged: records of either kind. records: of all clients in the run.
        membership, synthetic: attack -> what its scores amount to, on the global model and on the synthetic
            records; the latter empty where the run releases none. Members and others have equally many
            records of each class and client.
    """

    pipelines: int
    views: int
    judged: int
    records: int
    membership: Mapping[str, Summary]
    synthetic: Mapping[str, Summary]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pipelines": self.pipelines,
            "views": self.views,
            "judged": self.judged,
            "records": self.records,
            "membership": {name: found.to_dict() for name, found in self.membership.items()},
            "synthetic": {name: found.to_dict() for name, found in self.synthetic.items()},
        }


def attack_pipelines(
    run: RunDirectory,
    config: RunConfig,
    *,
    work: Path,
    pipelines: int = 8,
    views: int = 9,
    most: int = 2000,
    seed: int = 0,
    vary_seed: bool = False,
    keep: Path | None = None,
    progress: ProgressCallback | None = None,
) -> PipelineAttack:
    """Attack the global model and the synthetic records of a sealed run on public data.

    A pipeline takes as long as the run did. Its ledgers are its own, its noise is fresh.

    Args:
        config: of the run, as `run_config` gives it.
        work: a folder in which pipelines are made; each is removed when it has answered.
        pipelines: even, >= 4. views: of a record, from 1 to 25.
        most: judged records of either kind; a random part where there are more.
        seed: of halves and choices.
        vary_seed: give each pipeline public randomness (initial weights, projections, draws of synthetic
            records) of its own. By default it is that of the run: the attacker knows the run's seed, and what
            they know makes a stronger attack.
        keep: a folder for what pipelines answered, so that an attack that was stopped goes on where it was;
            other attacks may use the same one.
        progress: is told pipelines done, under the stage "shadow pipelines".

    Raises:
        UserError: the run has no global model or no test part, or a number does not fit.
        PrivacyError: as of `train`.
    """
    from attacks.membership.shadows import random_halves
    from attacks.membership.views import MOST_VIEWS

    if pipelines < FEWEST or pipelines % 2:
        raise UserError(f"shadow pipelines = {pipelines}: must be even and {FEWEST} or more")
    if not 1 <= views <= MOST_VIEWS:
        raise UserError(f"views = {views}: must be from 1 to {MOST_VIEWS}")
    if config.method == "local":
        raise UserError(
            "method = 'local': the run has no global model for shadow pipelines to be held against"
        )
    check_membership(run, config)
    tell = progress or (lambda _: None)
    judged = Judged.of(config, np.random.default_rng(derive_seed(seed, "judged")), most)
    inside = random_halves(pipelines, len(judged.labels), derive_seed(seed, "halves"))
    target = _Answers.of(run.path, judged, views)
    shadows = []
    for number, half in enumerate(inside):
        note = f"{number + 1} of {pipelines}"
        tell(Progress("shadow pipelines", number, pipelines, note))
        like = _like(config, derive_seed(seed, "pipeline", number) % 2**32 if vary_seed else None)
        kept = None if keep is None else keep / f"pipeline-{_digest(like, judged, half, views)}.npz"
        answers = _Answers.read(kept)
        if answers is None:

            def inner(report: Progress, number: int = number, note: str = note) -> None:
                tell(Progress("shadow pipelines", number, pipelines, f"{note}: {report.stage}"))

            answers = _make(like, judged, half, views, work, inner)
            answers.write(kept)
        shadows.append(answers)
    tell(Progress("shadow pipelines", pipelines, pipelines))
    statement = run.read_json("privacy.json")
    epsilon, delta = float(statement["epsilon"]), float(statement["delta"])
    members = judged.members
    groups = {"class": judged.labels, "client": np.array(config.client_ids)[judged.owners]}

    def summaries(scores: Mapping[str, np.ndarray]) -> dict[str, Summary]:
        return {name: summarise(score, members, epsilon, delta, groups) for name, score in scores.items()}

    confidence = Signals(target.confidence, np.stack([s.confidence for s in shadows]), inside)
    synthetic = {}
    if target.places:
        for name, place in target.places.items():
            signals = Signals(place[:, None], np.stack([s.places[name] for s in shadows])[..., None], inside)
            synthetic[f"{name}, shadow generators"] = lira_online(signals, shared_spread=True)
            synthetic[f"{name}, shadow generators, offline"] = lira_offline(signals, shared_spread=True)
    return PipelineAttack(
        pipelines=pipelines,
        views=views,
        judged=int(members.sum()),
        records=judged.records,
        membership=summaries(attempts(confidence, np.flatnonzero(~members))),
        synthetic=summaries(synthetic),
    )


@dataclass(frozen=True)
class _Answers:
    """What one finished run says about the judged records.

    Attributes:
        confidence: [N, V], logit confidence of its global model on each view.
        places: how records lie to its synthetic records, signal -> [N]; empty where it has none.
    """

    confidence: np.ndarray
    places: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, path: Path, judged: Judged, views: int) -> _Answers:
        import torch

        from attacks.membership.views import shifted_views
        from mosaic_secure.models.classifiers import predict_logits

        run = RunDirectory.open(path)
        asked = shifted_views(torch.from_numpy(judged.images), views)
        logits = predict_logits(load(run).module, asked.flatten(0, 1)).view(*asked.shape[:2], -1)
        places: dict[str, np.ndarray] = {}
        if any(run.has(f"{folder}/{INDEX}") for folder in (SAMPLER, GENERATORS)):
            made = draw(path, SYNTHETIC, 0).images.astype(np.float64) / 255
            flat, synthetic = (part.reshape(len(part), -1) for part in (judged.images, made))
            axes = Directions.of(flat, DIRECTIONS)  # of members and others alike: it tells nothing of them
            places = {
                "nearness": nearness(flat, synthetic),
                "density": log_density(axes(synthetic), axes(flat)),
            }
        return cls(logit_confidence(logits.numpy(), judged.labels), places)

    @classmethod
    def read(cls, path: Path | None) -> _Answers | None:
        """What an earlier attempt left; None where there is nothing, or it cannot be read."""
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            return cls(arrays.pop("confidence"), arrays)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def write(self, path: Path | None) -> None:
        """Keep it, where a place is given."""
        if path is not None:
            buffer = io.BytesIO()
            np.savez(buffer, confidence=self.confidence, **self.places)
            write_durably(path, buffer.getvalue())


def _like(config: RunConfig, seed: int | None) -> RunConfig:
    """The run's configuration for a pipeline: the same partition and method, fresh noise, here."""
    content = config.to_dict()
    content["engine"] = {**content["engine"], "name": "inprocess"}  # changes no result
    content["privacy"] = {**content["privacy"], "insecure_reproducible_noise": False}
    if seed is not None:
        content["partition"] = {**content["partition"], "seed": config.partition_seed}
        content["seed"] = seed
    return RunConfig.from_dict(content)


def _make(
    config: RunConfig, judged: Judged, half: np.ndarray, views: int, work: Path, progress: ProgressCallback
) -> _Answers:
    """One pipeline, from fresh parties to its answers; nothing else of it stays."""
    make_private_directory(work)
    place = Path(tempfile.mkdtemp(prefix="pipeline-", dir=work))
    try:
        run, ledgers = place / "run", place / "ledgers"
        train(config, out=run, ledger_dir=ledgers, progress=progress, witness=Planter(judged, half))
        return _Answers.of(run, judged, views)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _digest(config: RunConfig, judged: Judged, half: np.ndarray, views: int) -> str:
    """16 hexadecimal digits that name a pipeline's answers: all that they depend on but its noise."""
    content = config.to_dict()
    content.pop("engine")
    content["data"] = {**content["data"], "root": None}
    facts = {"config": content, "views": views, "version": __version__}
    digest = hashlib.sha256(canonical_json(facts))
    for part in (judged.images, judged.labels, judged.owners, judged.places, half):
        digest.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
