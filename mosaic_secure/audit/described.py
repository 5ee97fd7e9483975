"""Attacks on what a sealed run has released, as it is: they describe, and give no verdict.

Members of such a run were not drawn at random before it, so members and others may differ for reasons of
their own. A verdict needs a run with canaries (`mosaic_secure.audit.rehearsal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from attacks.membership.scores import logit_confidence
from attacks.summary import Summary, summarise
from attacks.synthetic.density import density_ratio
from attacks.synthetic.distances import nearest_ratio, nearness
from mosaic_secure.runs.artefacts import INDEX
from mosaic_secure.runs.predictor import Predictor, load
from mosaic_secure.runs.synthesis import GENERATORS, SAMPLER, draw

if TYPE_CHECKING:
    from mosaic_secure.audit.records import JudgedRecords
    from mosaic_secure.config import RunConfig
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["describe_model", "describe_synthetic"]

SYNTHETIC = 4000
BATCH = 256


def describe_model(run: RunDirectory, records: JudgedRecords, epsilon: float, delta: float) -> Summary:
    """Membership by how sure the global model is of a record's label: the threshold attack, a baseline.

    Yeom et al., "Privacy risk in machine learning" (CSF 2018), with logit confidence in place of the loss,
    which ranks records alike.

    Args:
        epsilon, delta: the run's guarantee.

    Raises:
        UserError: the run has no global model, or it is damaged.
    """
    logits = _logits(load(run), records.images)
    scores = logit_confidence(logits[:, None, :], records.labels)[:, 0]
    return summarise(scores, records.members, epsilon, delta, _groups(records))


def describe_synthetic(
    run: RunDirectory,
    config: RunConfig,
    records: JudgedRecords,
    epsilon: float,
    delta: float,
    *,
    seed: int = 0,
) -> dict[str, Summary]:
    """Membership by where the run's synthetic records lie, attack -> summary; empty if it releases none.

    "density ratio" is the attack, in pixels and in the features of the run's public encoder. "nearness" and
    "nearest-neighbour ratio" are what is often shown in its place: passing them proves nothing.
    """
    if not any(run.has(f"{folder}/{INDEX}") for folder in (SAMPLER, GENERATORS)):
        return {}
    made = draw(run.path, SYNTHETIC, seed).images.astype(np.float32) / 255
    sets = (records.images, made, records.population)
    flat = [part.reshape(len(part), -1) for part in sets]
    synthetic = flat[1].astype(np.float64)
    attacks: dict[str, Callable[[], np.ndarray]] = {
        "density ratio": lambda: density_ratio(*flat),
        "density ratio in features": lambda: density_ratio(*_features(config, sets)),
        "nearness": lambda: nearness(flat[0], synthetic),
        "nearest-neighbour ratio": lambda: -nearest_ratio(flat[0], synthetic),
    }
    return {
        name: summarise(attack(), records.members, epsilon, delta, _groups(records))
        for name, attack in attacks.items()
    }


def _features(config: RunConfig, sets: Iterable[np.ndarray]) -> list[np.ndarray]:
    """What the run's public encoder makes of each set of images, float32 [N, D]."""
    from mosaic_secure.models.encoders import encode
    from mosaic_secure.plan import build_plan

    encoder = build_plan(config, config.data.root).encoder()
    return [encode(encoder, images) for images in sets]


def _groups(records: JudgedRecords) -> dict[str, np.ndarray]:
    return {"class": records.labels, "client": records.clients}


def _logits(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """float32 [N, K]."""
    import torch

    with torch.no_grad():
        parts = [predictor.module(rows).numpy() for rows in torch.from_numpy(images).split(BATCH)]
    return np.concatenate(parts)
