"""Moments of pooled images by class, learnt from encrypted sums alone.

Four sums, each clipped about what the one before has shown, so that little of the clip is spent on what is
known: all images (their centre), the images of each class about the centre (the class means), the second
moments about the class means in common, and those of each class along the strongest directions of the common
ones. Sums over clients do not depend on how records are spread over them, so neither does anything here.

A record belongs to one class, so the moments of all classes together cost the sensitivity of one of them.
They are noisy nevertheless: each entry is drawn towards the common covariance, scaled to the class's own
spread, by a posterior mean under Gaussian noise and a Gaussian prior (Wiener shrinkage).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.server.array_state import ArrayState
from mosaic_secure.server.prototypes import clean_spectrum

if TYPE_CHECKING:
    from mosaic_secure.config import SamplerConfig

__all__ = [
    "ImageState",
    "start",
    "take_centre",
    "take_class_moments",
    "take_means",
    "take_moments",
]

_SPREADS = (0.2, 3.0)  # least and most that a class's variance may be of the common one
_LEAST = 0.02  # least eigenvalue of a class's covariance, relative to the common one


@dataclass(frozen=True)
class ImageState(ArrayState):
    """What the server knows of images after some rounds. All arrays float64; P pooled pixels, R directions.

    Attributes:
        centre: [P], mean image, in [0, 1]. means: [K, P], class means, in [0, 1].
        counts: [K], noised class counts of the round of the means.
        basis: [P, R], orthonormal directions; columns that stand for noise alone are zero.
        spectrum: [R], variance along each of them, over all classes; zero where the column is.
        covariances: [K, R, R], of each class in the basis, positive definite but for the zero columns.
    """

    centre: np.ndarray
    means: np.ndarray
    counts: np.ndarray
    basis: np.ndarray
    spectrum: np.ndarray
    covariances: np.ndarray


def start(pixels: int, rank: int, classes: int) -> ImageState:
    """Nothing known yet."""
    return ImageState(
        centre=np.zeros(pixels),
        means=np.zeros((classes, pixels)),
        counts=np.zeros(classes),
        basis=np.zeros((pixels, rank)),
        spectrum=np.zeros(rank),
        covariances=np.zeros((classes, rank, rank)),
    )


def take_centre(state: ImageState, code_sum: np.ndarray, counts: np.ndarray, clip: float) -> ImageState:
    """The mean image from the sum [P] of images over their clip."""
    centre = np.clip(clip * code_sum / max(float(counts.sum()), 1.0), 0.0, 1.0)
    return replace(state, centre=centre, means=np.tile(centre, (len(state.means), 1)))


def take_means(state: ImageState, class_sums: np.ndarray, counts: np.ndarray, clip: float) -> ImageState:
    """Class means from the sums [P, K] of images less the centre, over their clip."""
    counts = np.maximum(counts, 1.0)
    means = np.clip(state.centre + clip * class_sums.T / counts[:, None], 0.0, 1.0)
    return replace(state, means=means, counts=counts)


def take_moments(
    state: ImageState, moments: np.ndarray, counts: np.ndarray, clip: float, noise: float
) -> ImageState:
    """The directions that stand out of the noise, from second moments [P, P] about the class means.

    Args:
        moments: of images less their class mean, over their clip.
        noise: standard deviation of the noise on a diagonal entry.
    """
    square = clip**2
    records = max(float(np.maximum(counts, 0.0).sum()), 1.0)
    values, vectors = np.linalg.eigh(square * moments / records)
    rank = state.basis.shape[1]
    strongest = np.argsort(-values, kind="stable")[:rank]
    spectrum = clean_spectrum(values, square * noise / records)[strongest]
    return replace(state, basis=vectors[:, strongest] * (spectrum > 0), spectrum=spectrum)


def take_class_moments(
    state: ImageState,
    moments: np.ndarray,
    counts: np.ndarray,
    clip: float,
    noise: float,
    config: SamplerConfig,
) -> ImageState:
    """Covariances by class from second moments [K, R, R] in the basis.

    Args:
        moments: of images less their class mean, in the basis, over their clip.
        noise: standard deviation of the noise on a diagonal entry.
    """
    square = clip**2
    kept = int((state.spectrum > 0).sum())
    spectrum = state.spectrum[:kept]
    common = np.sqrt(np.outer(spectrum, spectrum))
    covariances = np.zeros_like(state.covariances)
    for label, count in enumerate(np.maximum(counts, 1.0)) if kept else ():
        found = square * moments[label, :kept, :kept] / count
        spread = float(np.clip(np.trace(found) / spectrum.sum(), *_SPREADS))
        # Off-diagonal entries carry half of the noise variance of the diagonal.
        variance = (square * noise / count) ** 2 / 2.0 * (1.0 + np.eye(kept)) / common**2
        prior = config.variety * spread**2
        own = (found / common - spread * np.eye(kept)) * (prior / (prior + variance))
        values, vectors = np.linalg.eigh(spread * np.eye(kept) + own)
        made = (vectors * np.maximum(values, _LEAST)) @ vectors.T
        covariances[label, :kept, :kept] = config.unclip * made * common
    return replace(state, covariances=covariances)
