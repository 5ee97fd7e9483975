"""Scores of a classifier on the public test part that do not follow the commonest class, as accuracy does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["AUC", "BALANCED", "Further", "area_under_roc", "balanced_accuracy", "further_scores"]

BALANCED, AUC = "balanced accuracy", "auc"

Further = dict[str, dict[str, float | None]]
"""Values by metric (`BALANCED`, `AUC`) and by the name of what was scored; None where undefined."""


def balanced_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean over classes of the share of their records that was recognised, in [0, 1].

    Args:
        predicted, labels: [N] integers. Classes that `labels` lacks do not count.

    Returns:
        None for no records.
    """
    found = np.asarray(predicted) == np.asarray(labels)
    shares = [float(found[labels == k].mean()) for k in np.unique(labels)]
    return float(np.mean(shares)) if shares else None


def area_under_roc(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve, in [0, 1].

    Of class 1 for two classes; for more the mean over classes of one against the rest. A record is ranked by
    its log-odds, as probabilities would rank it, but nothing saturates. Equal log-odds count half (Mann
    and Whitney 1947).

    Args:
        logits: [N, K], or log-probabilities. labels: [N] in [0, K).

    Returns:
        None where no class has records both inside and outside it, or a logit is not a number.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if not len(logits) or np.isnan(logits).any():
        return None
    classes = (1,) if logits.shape[1] == 2 else range(logits.shape[1])
    areas = [_area(_log_odds(logits, k), labels == k) for k in classes]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def further_scores(outputs: Mapping[str, Any], labels: np.ndarray) -> Further:
    """Both metrics of several classifiers.

    Args:
        outputs: name -> logits or log-probabilities [N, K], arrays or tensors of the CPU. labels: [N].
    """
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return {
        BALANCED: {name: balanced_accuracy(found.argmax(-1), labels) for name, found in arrays.items()},
        AUC: {name: area_under_roc(found, labels) for name, found in arrays.items()},
    }


def _log_odds(logits: np.ndarray, chosen: int) -> np.ndarray:
    rest = np.delete(logits, chosen, axis=1)
    with np.errstate(invalid="ignore"):
        return logits[:, chosen] - np.logaddexp.reduce(rest, axis=1)


def _area(scores: np.ndarray, inside: np.ndarray) -> float | None:
    """Share of the pairs of a record inside and one outside that `scores` [N] puts in the right order."""
    ones, zeros = int(inside.sum()), int((~inside).sum())
    if not ones or not zeros or np.isnan(scores).any():
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[inside].sum() - ones * (ones + 1) / 2) / (ones * zeros))
