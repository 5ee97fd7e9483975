"""The clients' classifiers as they released them: kept with every run, and all that a "local" run has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mosaic_secure.client.training import initial_classifier, set_weights
from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.server.scoring import Further, further_scores
from mosaic_secure.server.stored import Stored

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.server.assembly import Releases

__all__ = ["LOCAL_MEAN", "client_classifiers", "local_scores"]

LOCAL_MEAN = "local mean"


def client_classifiers(plan: RunPlan, releases: Releases) -> Mapping[str, tuple[str, nn.Module]]:
    """Each client's whole classifier, made when it is asked for: client id -> (architecture, network)."""

    def build(client: str) -> tuple[str, nn.Module]:
        architecture, weights = releases.classifiers[client]
        model = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
        set_weights(model, weights)
        return architecture, model

    return Stored(list(releases.classifiers), build)


def local_scores(
    classifiers: Mapping[str, tuple[str, nn.Module]], test: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[str, float], Further]:
    """How good the clients' classifiers are on the public test part.

    Args:
        classifiers: of `client_classifiers`.
        test: images [N, C, S, S] and labels [N], or None.

    Returns:
        Accuracies by name: every client's, and the mean ("local mean"), the least and the largest of them;
        further scores, their means alone. Nothing without a test part.
    """
    if not classifiers or test is None:
        return {}, {}
    images = torch.from_numpy(test[0])
    found: dict[str, float] = {}
    scored: dict[str, list[float | None]] = {}
    for client, (_, model) in classifiers.items():
        said = predict_logits(model, images)
        found[client] = float((said.argmax(-1).numpy() == test[1]).mean())
        for metric, score in further_scores({client: said}, test[1]).items():
            scored.setdefault(metric, []).append(score[client])
    values = list(found.values())
    summary = {LOCAL_MEAN: float(np.mean(values)), "local min": min(values), "local max": max(values)}
    further: Further = {}
    for metric, each in scored.items():
        known = [value for value in each if value is not None]
        further[metric] = {LOCAL_MEAN: float(np.mean(known)) if len(known) == len(each) else None}
    return summary | {f"local/{client}": value for client, value in found.items()}, further
