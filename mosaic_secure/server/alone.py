"""The end of a "local" run: every client keeps its own classifier, and nothing is combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from mosaic_secure.client.training import initial_classifier, set_weights
from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.server.scoring import Further, further_scores

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.server.assembly import Releases

__all__ = ["LOCAL_MEAN", "local_classifiers"]

LOCAL_MEAN = "local mean"


def local_classifiers(
    plan: RunPlan, releases: Releases, test: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[str, tuple[str, Mapping[str, torch.Tensor]]], dict[str, float], Further]:
    """Each client's whole classifier, and how good they are on the public test part.

    Args:
        test: images [N, C, S, S] and labels [N], or None.

    Returns:
        client id -> (architecture, state dictionary); accuracies by name: every client's, and the mean
        ("local mean"), the least and the largest of them; further scores, their means alone. No scores
        without a test part.
    """
    states: dict[str, tuple[str, Mapping[str, torch.Tensor]]] = {}
    found: dict[str, float] = {}
    outputs: dict[str, torch.Tensor] = {}
    for client, (architecture, weights) in releases.classifiers.items():
        model = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
        set_weights(model, weights)
        states[client] = (architecture, model.state_dict())
        if test is not None:
            outputs[client] = predict_logits(model, torch.from_numpy(test[0]))
            found[client] = float((outputs[client].argmax(-1).numpy() == test[1]).mean())
    if not found or test is None:
        return states, {}, {}
    values = list(found.values())
    summary = {LOCAL_MEAN: float(np.mean(values)), "local min": min(values), "local max": max(values)}
    further: Further = {}
    for metric, scored in further_scores(outputs, test[1]).items():
        known = [value for value in scored.values() if value is not None]
        further[metric] = {LOCAL_MEAN: float(np.mean(known)) if len(known) == len(scored) else None}
    return states, summary | {f"local/{client}": value for client, value in found.items()}, further
