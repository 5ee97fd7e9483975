"""Moduli of Gabor filters, pooled: how strongly an image waves, at which angle, how fast and where.

The filters are those of Daugman (1985), complex waves in a Gaussian envelope, here with the real part's mean
taken off. They are finer in angle than the scattering transform's wavelets and know no second order.
"""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["GaborFeatures"]

_WAVELENGTHS = (2.7, 5.3, 10.6)  # pixels
_ANGLES = 8
_REACH = 7  # pixels from a filter's centre to its edge
_PIECE = 16  # images at a time: their waves stay in the processor's cache
_FLOOR = 1e-12  # of a squared modulus: keeps its gradient finite where a wave vanishes


def _filters() -> torch.Tensor:
    """[2 * wavelengths * angles, 15, 15]: real and imaginary parts side by side."""
    axis = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    parts = []
    for wavelength in _WAVELENGTHS:
        envelope = torch.exp(-0.5 * (x**2 + y**2) / (0.4 * wavelength) ** 2)
        for k in range(_ANGLES):
            angle = math.pi * k / _ANGLES
            phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / wavelength
            wave = envelope * phase.cos()
            parts += [wave - envelope * wave.sum() / envelope.sum(), envelope * phase.sin()]
    return torch.stack(parts)


def _averaging_matrix(size: int, side: int) -> torch.Tensor:
    """Means over `side` windows that cover `size` points: [side, size]."""
    rows = torch.zeros(side, size)
    for i in range(side):
        first, last = i * size // side, -(-(i + 1) * size // side)
        rows[i, first:last] = 1.0 / (last - first)
    return rows


class GaborFeatures(nn.Module):
    """Pooled images and moduli of Gabor filters, normalised for each record alone, at norm one: [B, D].

    Channels are summed before they are filtered; the pooled images keep them apart.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        side = max(4, min(8, size // 4))
        self.register_buffer("filters", _filters()[:, None], persistent=False)
        self.register_buffer("average", _averaging_matrix(size, side), persistent=False)
        maps = channels + len(self.filters) // 2
        self.groups = max(count for count in range(1, maps // 3 + 1) if maps % count == 0)
        self.dim = maps * side**2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, C, S, S] in [0, 1] -> [B, D] of norm one."""
        if torch.compiler.is_exporting() or len(images) <= _PIECE:
            maps = self._maps(images)
        else:
            maps = torch.cat([self._maps(piece) for piece in images.split(_PIECE)])
        rows = nn.functional.group_norm(maps, self.groups, eps=1e-5).flatten(1)
        return nn.functional.normalize(rows, dim=1)

    def _maps(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled images and moduli, [B, maps, side, side]."""
        waves = nn.functional.conv2d(images.sum(1, keepdim=True), self.filters, padding=_REACH)
        moduli = waves.unflatten(1, (-1, 2)).square().sum(2).clamp_min(_FLOOR).sqrt()
        return self.average @ torch.cat([images, moduli], 1) @ self.average.T
