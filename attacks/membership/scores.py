"""Membership scores from what a model, and shadow models like it, say about records.

A shadow model was trained as the target was, on a random half of the records, so it is known which of them it
has seen. Scores are larger for likelier members. They rank records; what the ranking is worth is measured
elsewhere (`attacks.rates`), on records whose membership was drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

__all__ = ["Signals", "lira_offline", "lira_online", "logit_confidence", "rmia", "true_probability"]

SMALLEST_SPREAD = 1e-6
"""Standard deviations below this are taken for this: models that all say the same leave no noise to weigh."""


@dataclass(frozen=True)
class Signals:
    """One number for each model, record and view of a record.

    Attributes:
        target: float64 [N, V], of the model under attack on V views (augmentations) of N records.
        shadows: float64 [S, N, V], of S shadow models on the same views.
        inside: bool [S, N], whether a shadow model was trained on a record.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """

    target: np.ndarray
    shadows: np.ndarray
    inside: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("target", np.float64), ("shadows", np.float64), ("inside", np.bool_)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if self.target.ndim != 2 or self.shadows.shape[1:] != self.target.shape:
            raise ValueError(
                f"target {self.target.shape} and shadows {self.shadows.shape}: must be [N, V] and [S, N, V]"
            )
        if self.inside.shape != self.shadows.shape[:2]:
            raise ValueError(f"inside {self.inside.shape}: must be [S, N] = {self.shadows.shape[:2]}")
        if not (np.isfinite(self.target).all() and np.isfinite(self.shadows).all()):
            raise ValueError("signals must be finite")


def logit_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p / (1 - p) of the true class, float64 [...]: nearly Gaussian over models.

    Carlini et al., "Membership inference attacks from first principles" (arXiv 2112.03570), section IV; in a
    form that stays finite where p is 1 in floating point.

    Args:
        logits: [..., N, V, K]. labels: int [N].
    """
    logits = np.asarray(logits, dtype=np.float64)
    own, others = _apart(logits, labels)
    return own - special.logsumexp(others, axis=-1)


def true_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Softmax probability of the true class, float64 [...]; arguments as of `logit_confidence`."""
    return special.expit(logit_confidence(logits, labels))


def lira_online(signals: Signals, *, shared_spread: bool = False, median: bool = False) -> np.ndarray:
    """Likelihood ratio of "trained on it" to "not trained on it", float64 [N], logarithm, mean over views.

    Carlini et al. (arXiv 2112.03570), algorithm 1: for each record and view a Gaussian is fitted to the
    shadow models that saw the record and one to those that did not.

    Args:
        signals: logit confidences; each record is inside and outside of at least two shadow models each.
        shared_spread: one standard deviation for all records, about their own centres; better with few shadow
            models (section VI-B there).
        median: centre the Gaussians at medians, as the paper's own code does, not at means.

    Raises:
        ValueError: too few shadow models for a record.
    """
    inside = _spread(signals, signals.inside, "inside", shared_spread, median)
    outside = _spread(signals, ~signals.inside, "outside", shared_spread, median)
    ratio = _log_density(signals.target, *inside) - _log_density(signals.target, *outside)
    return ratio.mean(axis=1)


def lira_offline(signals: Signals, *, shared_spread: bool = False, median: bool = False) -> np.ndarray:
    """How unusual the target is among models that did not see the record: log of the probability of less.

    Carlini et al. (arXiv 2112.03570), section V-E: no shadow model need be trained on the records.

    Args, returns, raises: as of `lira_online`; only models outside are used.
    """
    means, spread = _spread(signals, ~signals.inside, "outside", shared_spread, median)
    return special.log_ndtr((signals.target - means) / spread).mean(axis=1)


def rmia(
    signals: Signals,
    population: np.ndarray,
    *,
    gamma: float = 1.0,
    offline: float | None = None,
) -> np.ndarray:
    """Share of population records that the record outweighs at least gamma times, float64 [N] in [0, 1].

    Zarifzadeh, Liu and Shokri, "Low-cost high-power membership inference attacks" (arXiv 2312.03262): the
    target's probability of a record, over its mean probability under reference models, is compared with the
    same of records that the target has not seen.

    Args:
        signals: probabilities of the true class, in (0, 1]; views are averaged on the logarithmic scale.
        population: positions of records that the target was not trained on. A record is not compared with
            itself.
        gamma: >= 1.
        offline: None takes the mean of models inside and outside. A number a in [0, 1] uses models outside
            alone, and a * p + (1 - a) in place of p for the models inside.

    Raises:
        ValueError: a probability is not positive, the population is empty, or an argument is out of range.
    """
    population = np.unique(np.asarray(population, dtype=np.int64))
    count = len(signals.target)
    if not len(population) or population[0] < 0 or population[-1] >= count:
        raise ValueError(f"population: must be positions from 0 to {count - 1}, at least one")
    if gamma < 1 or (offline is not None and not 0 <= offline <= 1):
        raise ValueError(f"gamma = {gamma}, offline = {offline}: must be >= 1, and in [0, 1] or None")
    if min(signals.target.min(), signals.shadows.min()) <= 0:
        raise ValueError("signals must be probabilities above 0")
    outside = _mean(signals, ~signals.inside, "outside")
    seen = None if offline is not None else _mean(signals, signals.inside, "inside")
    inside = offline * outside + (1 - offline) if seen is None else seen
    weights = (np.log(signals.target) - np.log((inside + outside) / 2)).mean(axis=1)
    beaten = np.searchsorted(np.sort(weights[population]), weights - np.log(gamma), side="right")
    compared = np.full(count, len(population))
    compared[population] -= 1
    beaten[population] -= 1 if gamma == 1 else 0
    return beaten / np.maximum(compared, 1)


def _apart(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true class's logit, [..., N, V], and those of the others, [..., N, V, K - 1]."""
    classes = logits.shape[-1]
    labels = np.asarray(labels, dtype=np.int64)
    others = (labels[:, None] + 1 + np.arange(classes - 1)) % classes  # [N, K - 1]
    shape = (*logits.shape[:-1], classes - 1)
    rest = np.take_along_axis(logits, np.broadcast_to(others[:, None, :], shape), axis=-1)
    own = np.take_along_axis(logits, np.broadcast_to(labels[:, None, None], (*shape[:-1], 1)), axis=-1)
    return own[..., 0], rest


def _mean(signals: Signals, chosen: np.ndarray, where: str, fewest: int = 1) -> np.ndarray:
    """Mean over the chosen shadow models of each record, [N, V]."""
    counts = chosen.sum(axis=0)
    if counts.min() < fewest:
        record = int(counts.argmin())
        raise ValueError(
            f"record {record}: {counts[record]} shadow models have it {where}, must be at least {fewest}; "
            "train more of them"
        )
    return np.einsum("sn,snv->nv", chosen.astype(np.float64), signals.shadows) / counts[:, None]


def _spread(
    signals: Signals, chosen: np.ndarray, where: str, shared: bool, median: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Centre, [N, V], and standard deviation, [N, V] or [1, V], over the chosen shadow models."""
    centres = means = _mean(signals, chosen, where, fewest=2)
    squares = np.where(chosen[..., None], (signals.shadows - means) ** 2, 0.0).sum(axis=0)
    freedom = chosen.sum(axis=0) - 1
    if median:
        centres = np.nanmedian(np.where(chosen[..., None], signals.shadows, np.nan), axis=0)
    if shared:
        squares, freedom = squares.sum(axis=0, keepdims=True), freedom.sum(keepdims=True)
    variance = squares / freedom[:, None]
    return centres, np.maximum(np.sqrt(variance), SMALLEST_SPREAD)


def _log_density(values: np.ndarray, means: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return -0.5 * ((values - means) / spread) ** 2 - np.log(spread)
