"""Encoders that were tried beside the product's own: fixed maps, known before any data is seen.

Features come by name (`features`), are brought to a code's length by a projection (`frame`), and stand
beside the product's block of pooled pixels. What proved best is the product's encoder "wavelets": see
docs/frontier.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mosaic_secure.models.encoders import ScatteringFeatures
from mosaic_secure.models.gabor import GaborFeatures
from mosaic_secure.models.procedural import procedural_images
from mosaic_secure.models.projections import principal_directions, random_frame
from mosaic_secure.seeds import torch_generator

_SIDE = 7  # of the grid to which filter responses are pooled


class _Tried(nn.Module):
    """A function of images, as a module with the length of its result."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.function = function
        self.dim = function(torch.zeros(1, *shape)).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def feature_names() -> tuple[str, ...]:
    """What `features` knows; names joined by "+" are put side by side with equal norms."""
    return (*_PRODUCT, *_BUILDERS)


def features(name: str, shape: tuple[int, int, int], seed: int) -> nn.Module:
    """Images [B, C, S, S] -> [B, D] of norm one, by a fixed map.

    Raises:
        SystemExit: an unknown name.
    """
    if "+" in name:
        parts = [features(part, shape, seed) for part in name.split("+")]
        scale = len(parts) ** -0.5
        return _Tried(lambda x: torch.cat([part(x) for part in parts], 1) * scale, shape)
    if name in _PRODUCT:
        return _PRODUCT[name](shape)
    if name not in _BUILDERS:
        raise SystemExit(f"try.features: {name!r} is unknown; one of {', '.join(feature_names())}")
    return _Tried(_BUILDERS[name](shape[0], torch_generator(seed, f"tried-{name}")), shape)


def mirrored(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mean of what `module` says of an image and of its mirror image, at norm one."""
    return lambda images: functional.normalize(module(images) + module(images.flip(-1)), dim=1)


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Maps [B, channels, h, w], some three channels of a record standardised together, at norm one."""
    channels = maps.shape[1]
    groups = max(count for count in range(1, channels // 3 + 1) if channels % count == 0)
    return functional.normalize(functional.group_norm(maps, groups).flatten(1), dim=1)


def _convolution(filters: torch.Tensor, absolute: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def of(images: torch.Tensor) -> torch.Tensor:
        found = functional.conv2d(images, filters, padding=filters.shape[-1] // 2)
        found = found.abs() if absolute else torch.cat([found.relu(), (-found).relu()], 1)
        return _normalised(functional.adaptive_avg_pool2d(found, _SIDE))

    return of


def _random_filters(size: int, count: int, absolute: bool) -> Callable:
    def build(channels: int, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
        filters = torch.randn(count, channels, size, size, generator=generator)
        return _convolution(filters - filters.mean((1, 2, 3), keepdim=True), absolute)

    return build


def _two_layers(channels: int, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    first = torch.randn(24, channels, 5, 5, generator=generator)
    second = torch.randn(96, 24, 3, 3, generator=generator)
    first, second = (f - f.mean((2, 3), keepdim=True) for f in (first, second))

    def of(images: torch.Tensor) -> torch.Tensor:
        inner = functional.avg_pool2d(functional.conv2d(images, first, padding=2).abs(), 2)
        outer = functional.conv2d(inner, second, padding=1).abs()
        return _normalised(functional.adaptive_avg_pool2d(torch.cat([inner, outer], 1), _SIDE))

    return of


def _haar(_channels: int, _: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Moduli of undecimated Haar wavelets of three scales and three orientations, beside the mean."""

    def of(images: torch.Tensor) -> torch.Tensor:
        mean, out = images, []
        for step in (1, 2, 4):
            padded = functional.pad(mean, (0, step, 0, step), mode="replicate")
            a, b = padded[..., :-step, :-step], padded[..., :-step, step:]
            c, d = padded[..., step:, :-step], padded[..., step:, step:]
            out += [(a + b - c - d).abs(), (a - b + c - d).abs(), (a - b - c + d).abs()]
            mean = (a + b + c + d) / 4
        return _normalised(functional.adaptive_avg_pool2d(torch.cat([*out, images], 1), _SIDE))

    return of


def _hog(*cells: int, bins: int = 9) -> Callable:
    """Histograms of gradient orientations over cells (Dalal and Triggs, 2005), blocks of 2 x 2 cells."""

    def build(_channels: int, _: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
        def of(images: torch.Tensor) -> torch.Tensor:
            padded = functional.pad(images, (1, 1, 1, 1), mode="replicate").mean(1, keepdim=True)
            dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
            dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
            place = (torch.atan2(dy, dx) / math.pi % 1.0) * bins
            away = (place - torch.arange(bins).view(1, -1, 1, 1)).abs()
            votes = (dx**2 + dy**2).sqrt() * (1 - torch.minimum(away, bins - away)).clamp_min(0)
            out = []
            for cell in cells:
                histogram = functional.avg_pool2d(votes, cell)
                energy = histogram.square().sum(1, keepdim=True)
                block = functional.avg_pool2d(functional.pad(energy, (1, 1, 1, 1), mode="replicate"), 3, 1)
                found = (histogram / (block + 1e-4).sqrt()).clamp_max(1.0).flatten(1)
                out.append(functional.normalize(found, dim=1) / len(cells) ** 0.5)
            return torch.cat(out, 1)

        return of

    return build


_PRODUCT: dict[str, Callable] = {"scattering": ScatteringFeatures, "gabor": GaborFeatures}
_BUILDERS: dict[str, Callable] = {
    "conv3": _random_filters(3, 81, absolute=True),
    "conv5": _random_filters(5, 81, absolute=True),
    "conv5_relu": _random_filters(5, 40, absolute=False),
    "conv_two_layers": _two_layers,
    "haar": _haar,
    "hog2": _hog(2),
    "hog4": _hog(4),
    "hog7": _hog(7),
    "hog247": _hog(2, 4, 7),
}


def frame(
    kind: str,
    module: nn.Module,
    shape: tuple[int, int, int],
    dim: int,
    seed: int,
    power: float,
    public: Callable[[], np.ndarray],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A public mean [D] and matrix [D, dim]: codes are features less the mean, times the matrix.

    Kinds: random (the product's), cosine (random signs, cosine transform, random rows), low (the slowest
    cosines of each map of scattering), maps (random directions of each map alone), public (principal
    directions of procedural images, weighted by variance^(-power / 2)), sketch (nearly the same directions as
    the encoder "wavelets" has them, by subspace iteration from a random frame).

    Raises:
        SystemExit: an unknown kind.
    """
    size, generator = module.dim, torch_generator(seed, "projection")
    none, dim = torch.zeros(size), min(dim, module.dim)
    if kind == "random":
        return none, random_frame(size, dim, seed)
    if kind == "cosine":
        signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1.0
        rows = torch.randperm(size, generator=generator)[:dim]
        return none, signs[:, None] * _cosines(size)[rows].T
    if kind in ("low", "maps"):
        return none, _blocks(kind, size, module.transform.side, dim, generator)
    if kind == "public":
        mean, rows = centred(public())
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        values, vectors = values.flip(0).clamp_min(1e-9 * values[-1]), vectors.flip(1)
        return mean, vectors[:, :dim] * (values[:dim] / values[0]) ** (-power / 2)
    if kind == "sketch":
        return principal_directions(torch.from_numpy(public()), dim, seed)
    raise SystemExit(f"try.projection: {kind!r} is unknown; one of random, cosine, low, maps, public, sketch")


def _blocks(kind: str, size: int, side: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """[size, dim]: some directions of each map of side x side points, the first of every map first."""
    area = side**2
    each = math.ceil(dim * area / size)
    if kind == "low":
        basis = torch.kron(_cosines(side), _cosines(side))
        speed = torch.arange(side)[:, None] ** 2 + torch.arange(side)[None, :] ** 2
        blocks = [basis[speed.flatten().argsort(stable=True)[:each]].T] * (size // area)
    else:
        draws = torch.randn(size // area, area, each, generator=generator)
        blocks = list(torch.linalg.qr(draws)[0])
    return torch.block_diag(*blocks).unflatten(1, (-1, each)).transpose(1, 2).flatten(1)[:, :dim]


def _cosines(size: int) -> torch.Tensor:
    """The orthonormal cosine transform, one frequency a row."""
    k = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows.float()


def public_features(of: Callable, count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Features [count, D] of procedural images."""
    images = torch.from_numpy(procedural_images(count, shape, seed))
    with torch.no_grad():
        return torch.cat([of(part) for part in images.split(512)]).numpy()


def centred(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of rows, and the rows less it at norm one."""
    found = torch.from_numpy(rows)
    mean = found.mean(0)
    return mean, functional.normalize(found - mean, dim=1)
