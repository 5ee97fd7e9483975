"""The prototype expert: a linear model on public codes, learnt from encrypted sums alone.

Sums over clients do not depend on how records are spread over them, so neither does this expert. It is a
ridge regression from noisy second moments and class sums, refined by gradient rounds that the noisy moments
precondition (a bound-optimisation Newton step; Böhning 1992). The moments also give the metric in which
clients clip codes for the gradient rounds: strong directions, which need little of the clip, leave it to
the weak ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.server.array_state import ArrayState

if TYPE_CHECKING:
    from mosaic_secure.config import PrototypesConfig
    from privacy.mechanisms import SumMechanism

__all__ = [
    "PrototypeState",
    "best_counts",
    "clean_spectrum",
    "start",
    "take_centre",
    "take_gradient",
    "take_moments",
]

_LOGIT_SCALE = 4.0  # regression on one-hot labels spans about 1; four times that are usable logits
_CURVATURE = 8.0  # a gradient's noise over the ridge that a caution of 1 calls for


@dataclass(frozen=True)
class PrototypeState(ArrayState):
    """What the server knows after some rounds. All arrays float64.

    Attributes:
        centre: [dim], mean code; zeros before it is released.
        weights: [dim, K], softmax weights on centred codes; zeros before the moments.
        velocity, total: [dim, K], of the gradient steps: momentum, and the sum of the averaged iterates.
        averaged: [1], how many iterates `total` holds.
        vectors, values: [dim, dim], [dim], eigenvectors and eigenvalues of the noisy second moments.
        spectrum: [dim], eigenvalues without what noise explains, none below the mean of those in the noise.
        scale: [dim], by which each eigenvector's direction is multiplied for gradients; ones: not at all.
        ridge: [1], what is added to the cleaned eigenvalues before they are inverted.
        sums, counts: [K, dim], [K], class sums and noised class counts.
        noise: [1], standard deviation of the noise on a second moment.
    """

    centre: np.ndarray
    weights: np.ndarray
    velocity: np.ndarray
    total: np.ndarray
    averaged: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    spectrum: np.ndarray
    scale: np.ndarray
    ridge: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    noise: np.ndarray

    @property
    def metric(self) -> np.ndarray:
        """[dim, dim], maps centred codes to those on which gradients are taken; float32, as it travels."""
        return (self.vectors * self.scale).astype(np.float32)

    @property
    def scaled_weights(self) -> np.ndarray:
        """[dim, K], the softmax weights on codes after the metric."""
        return (self.vectors.T @ self.weights) / self.scale[:, None]

    def bias(self, balance: float) -> np.ndarray:
        """[K], -balance * log(share of the class) by the noised counts: zeros for 0, or before the counts."""
        counts = np.maximum(self.counts, 1.0)
        return -balance * np.log(counts / counts.sum()) if balance else np.zeros(len(counts))

    @property
    def means(self) -> np.ndarray:
        """[K, dim], class means of the centred codes."""
        return self.sums / np.maximum(self.counts, 1.0)[:, None]


def clean_spectrum(values: np.ndarray, noise: float) -> np.ndarray:
    """Eigenvalues of a symmetric matrix without what noise on it explains.

    Noise of deviation `noise` on the diagonal and noise / sqrt 2 beside it has eigenvalues up to
    r = noise * sqrt(2 n) (Wigner's semicircle); a true eigenvalue t > r/2 shows as t + r^2 / (4 t), which is
    inverted here (Benaych-Georges and Nadakuditi 2011). The rest counts as zero.
    """
    radius = noise * math.sqrt(2.0 * len(values))
    above = np.maximum(values, radius)
    return np.where(values > radius, (above + np.sqrt(above**2 - radius**2)) / 2.0, 0.0)


def start(dim: int, classes: int) -> PrototypeState:
    """Nothing known yet."""
    flat = np.zeros((dim, classes))
    return PrototypeState(
        centre=np.zeros(dim),
        weights=flat,
        velocity=flat,
        total=flat,
        averaged=np.zeros(1),
        vectors=np.eye(dim),
        values=np.ones(dim),
        spectrum=np.ones(dim),
        scale=np.ones(dim),
        ridge=np.zeros(1),
        sums=np.zeros((classes, dim)),
        counts=np.zeros(classes),
        noise=np.zeros(1),
    )


def take_centre(state: PrototypeState, code_sum: np.ndarray, records: float) -> PrototypeState:
    """The centre from the sum of all codes [dim] and a released or declared number of records."""
    mean = code_sum / max(records, 1.0)
    return replace(state, centre=mean / max(1.0, float(np.linalg.norm(mean))))


def best_counts(
    encrypted: np.ndarray, encrypted_std: float, released: np.ndarray, released_std: float
) -> np.ndarray:
    """Class counts [K] from two noisy versions, weighted by the inverse of their variances.

    Under local trust the separately released counts carry less noise, under distributed trust often the
    encrypted sum does.
    """
    total = encrypted_std**2 + released_std**2
    share = 0.0 if total == 0 else released_std**2 / total
    return share * encrypted + (1.0 - share) * released


def take_moments(
    state: PrototypeState,
    decoded: dict[str, np.ndarray],
    counts: np.ndarray,
    mechanism: SumMechanism,
    contributors: int,
    config: PrototypesConfig,
) -> PrototypeState:
    """The ridge solution from class sums and second moments.

    Args:
        decoded: "class_sums" [dim, K] and, where configured, "second_moments" [dim, dim].
        counts: [K], class counts of the contributors together; see `best_counts`.
        mechanism: of the moments round; tells how noisy each block is.
        contributors: clients in the sum.
    """
    class_sums = decoded["class_sums"]
    dim, classes = class_sums.shape
    counts = np.maximum(counts, 1.0)
    records = float(counts.sum())
    targets = class_sums - class_sums.sum(axis=1, keepdims=True) / classes
    if "second_moments" in decoded:
        noise = mechanism.noise_std("second_moments", contributors)
        values, vectors = np.linalg.eigh(decoded["second_moments"])
        # Off-diagonal entries carry noise / sqrt 2: the spectrum of pure noise reaches sqrt(2 dim) noise.
        ridge = max(config.ridge * noise * math.sqrt(dim / 2.0), 1e-4 * records / dim)
    else:
        noise = ridge = 0.0
        values, vectors = np.full(dim, records / dim), np.eye(dim)
    cleaned = clean_spectrum(values, noise)
    spectrum = _with_tail(cleaned, records)
    inverse = 1.0 / (cleaned + ridge)
    weights = _LOGIT_SCALE * (vectors @ ((vectors.T @ targets) * inverse[:, None]))
    return replace(
        state,
        weights=weights,
        total=np.zeros_like(weights),
        averaged=np.zeros(1),
        velocity=np.zeros_like(weights),
        vectors=vectors,
        values=values,
        spectrum=spectrum,
        scale=_metric_scale(spectrum / records, config),
        ridge=np.array([ridge]),
        sums=class_sums.T.copy(),
        counts=counts,
        noise=np.array([noise]),
    )


def take_gradient(
    state: PrototypeState,
    gradient: np.ndarray,
    round: int,
    mechanism: SumMechanism,
    contributors: int,
    config: PrototypesConfig,
) -> PrototypeState:
    """One preconditioned step on the summed softmax gradient [dim, K]; the last iterates are averaged.

    Args:
        gradient: in the state's metric.
    """
    dim = len(state.centre)
    floor = config.caution * mechanism.noise_std("gradient", contributors) * math.sqrt(dim) / _CURVATURE
    square = state.scale**2
    curvature = state.spectrum * square + np.maximum(floor, float(state.ridge[0]) * square)
    moved = state.vectors @ (gradient * (state.scale / curvature)[:, None])
    velocity = config.momentum * state.velocity - config.step * moved
    weights = state.weights + velocity
    total, averaged = state.total, state.averaged
    first = config.rounds - max(1, _round_up(config.average * config.rounds))
    if round >= first:
        total, averaged = total + weights, averaged + 1.0
    state = replace(state, weights=weights, velocity=velocity, total=total, averaged=averaged)
    if round == config.rounds - 1:
        state = replace(state, weights=total / averaged)
    return state


def _with_tail(cleaned: np.ndarray, records: float) -> np.ndarray:
    """The spectrum, its zeros replaced by their mean: centred codes have norm one, so the trace is known."""
    hidden = cleaned <= 0
    if not hidden.any():
        return cleaned
    rest = max(records - float(cleaned.sum()), 1e-6 * records)
    return np.maximum(cleaned, rest / int(hidden.sum()))


def _metric_scale(variances: np.ndarray, config: PrototypesConfig) -> np.ndarray:
    """Scales [dim] that even out variances [dim], such that a typical code keeps the norm `radius`."""
    if config.whitening == 0 or not config.second_moments:
        return np.ones_like(variances)
    scale = np.maximum(variances, 1e-9) ** (-config.whitening / 2)
    return scale * (config.radius / math.sqrt(float((variances * scale**2).sum())))


def _round_up(value: float) -> int:
    """Ceiling that forgives floating point: 0.25 * 12 is 3."""
    return math.ceil(value - 1e-9)
