"""Procedural images: random shapes from a public seed, where an encoder needs images and may see no data."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["procedural_images"]

_TINT = 0.15  # standard deviation of a channel's shade around that of the shape


def procedural_images(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Images float32 [count, C, S, S] in [0, 1] of random ellipses, rectangles and rings, some striped.

    Nothing but the arguments goes into them. Where there are several channels, shapes are tinted.
    """
    rng, (channels, size, _) = np.random.default_rng([30, seed % 2**32]), shape
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1) * 2 - 1
    out = np.zeros((count, channels, size, size), dtype=np.float32)
    for image in out:
        image += rng.random() * (rng.random() < 0.4)
        for _ in range(rng.integers(1, 9)):
            _draw(image, x, y, rng)
        if rng.random() < 0.5:
            image += rng.normal(0, 0.05, (size, size))
    return np.clip(out, 0, 1)


def _draw(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Put one shape over what is there."""
    turn, (left, top) = rng.uniform(0, math.pi), rng.uniform(-0.8, 0.8, 2)
    length = math.exp(rng.uniform(math.log(0.06), 0.0))
    width = length * math.exp(rng.uniform(math.log(0.1), 0.0))
    u = (x - left) * math.cos(turn) + (y - top) * math.sin(turn)
    v = (y - top) * math.cos(turn) - (x - left) * math.sin(turn)
    kind = rng.integers(3)
    if kind == 0:
        outside = (np.hypot(u / length, v / width) - 1) * width
    elif kind == 1:
        outside = np.maximum(np.abs(u) - length, np.abs(v) - width)
    else:
        outside = np.abs(np.hypot(u, v) - length) - 0.1
    cover = np.clip(0.5 - outside * len(x) / 2, 0, 1)
    shade = rng.random()
    if rng.random() < 0.4:
        shade = shade * (0.6 + 0.4 * np.sin(rng.uniform(2, 14) * u + rng.uniform(0, 6.3)))
    tint = rng.normal(0, _TINT, (len(image), 1, 1)) if len(image) > 1 else 0.0
    image += cover * (shade + tint - image)
