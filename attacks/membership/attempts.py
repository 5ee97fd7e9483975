"""All attacks that a set of shadow models allows, from one set of signals."""

from __future__ import annotations

import numpy as np
from scipy import special

from attacks.membership.scores import Signals, lira_offline, lira_online, rmia

__all__ = ["FEW", "LOSS", "attempts"]

FEW = 8
"""With fewer models on a side of a record, a spread of its own is not worth estimating."""
LOSS = "loss threshold"


def attempts(confidence: Signals, population: np.ndarray) -> dict[str, np.ndarray]:
    """Membership scores by name of the attack, float64 [N] each.

    LiRA in its variants and RMIA use the shadow models; the loss threshold, a baseline, does not, and looks
    at the first view alone. Where a record is inside or outside of fewer than `FEW` models, LiRA is tried
    with one spread for all records only.

    Args:
        confidence: logit confidences; each record is inside and outside of two shadow models at least.
        population: positions of records that the target was not trained on, for RMIA.

    Raises:
        ValueError: too few shadow models, or an empty population.
    """
    inside = confidence.inside.sum(axis=0)
    fewest = min(inside.min(), (len(confidence.inside) - inside).min())
    tiny = np.finfo(np.float64).tiny
    chances = Signals(
        *(np.maximum(special.expit(part), tiny) for part in (confidence.target, confidence.shadows)),
        confidence.inside,
    )
    found = {}
    if fewest >= FEW:
        found["LiRA, online"] = lira_online(confidence)
    found["LiRA, online, one spread"] = lira_online(confidence, shared_spread=True)
    if fewest >= FEW:
        found["LiRA, offline"] = lira_offline(confidence)
    found["LiRA, offline, one spread"] = lira_offline(confidence, shared_spread=True)
    found["RMIA"] = rmia(chances, population)
    found[LOSS] = confidence.target[:, 0]
    return found
