"""The two-dimensional scattering transform: fixed wavelets, modulus, averaging.

A scattering network (Bruna and Mallat, "Invariant Scattering Convolution Networks", 2013) has no
trained weights, so its features may be public and still be good: a linear model on them is what
Tramèr and Boneh (2021) found to beat DP-SGD on convolutional networks at small epsilon.
"""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["Scattering2d"]

_SIGMA = 0.8  # spatial width of the finest wavelet, pixels
_XI = 3.0 * math.pi / 4.0  # centre frequency of the finest wavelet, radians a pixel
_LOW_PASS_SIGMA = 0.8
_PIECE = 32


def _averaging_matrix(size: int, step: int, start: int, rows: int, sigma: float) -> torch.Tensor:
    """Circular Gaussian low-pass of `size` samples, read at start, start + step, ...: [rows, size]."""
    centres = start + step * torch.arange(rows, dtype=torch.float64)
    distance = torch.arange(size, dtype=torch.float64)[None, :] - centres[:, None]
    wrapped = distance[..., None] + size * torch.arange(-1, 2, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (wrapped / sigma) ** 2).sum(-1)
    return kernel / kernel.sum(1, keepdim=True)


def _morlet_spectrum(size: int, sigma: float, xi: float, theta: float, slant: float) -> torch.Tensor:
    """Spectrum of a Morlet wavelet: an oriented Gabor atom less the Gaussian that makes its mean zero."""
    omega = 2.0 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)
    shifts = 2.0 * math.pi * torch.arange(-2, 3, dtype=torch.float64)
    wy = omega[:, None, None, None] + shifts[None, None, :, None]
    wx = omega[None, :, None, None] + shifts[None, None, None, :]
    along = math.cos(theta) * wx + math.sin(theta) * wy
    across = -math.sin(theta) * wx + math.cos(theta) * wy

    def envelope(centre: float) -> torch.Tensor:
        return torch.exp(-0.5 * sigma**2 * ((along - centre) ** 2 + (across / slant) ** 2)).sum((2, 3))

    gabor, gaussian = envelope(xi), envelope(0.0)
    return gabor - gaussian * (gabor[0, 0] / gaussian[0, 0])


def _periodise(spectrum: torch.Tensor, factor: int) -> torch.Tensor:
    """Spectrum of the signal subsampled by `factor` in both directions (folds the aliases together)."""
    if factor == 1:
        return spectrum
    size = spectrum.shape[-1] // factor
    # Adding slices is ten times faster here than a mean over strided axes.
    rows = sum(spectrum[..., k * size : (k + 1) * size, :] for k in range(factor))
    return sum(rows[..., k * size : (k + 1) * size] for k in range(factor)) / factor**2


class Scattering2d(nn.Module):
    """Windowed scattering of orders 0 to 2 (order 2 only where `scales` >= 2).

    Args:
        size: side of the square images, pixels; the images are mirrored at the border.
        scales: J; averages over 2^J pixels. 1 <= J and 2^J <= size.
        angles: L, number of orientations.

    Maps [B, C, size, size] to [B, C * channels, size // 2^J, size // 2^J], where channels is
    1 + J*L + L^2*J*(J-1)/2.
    """

    def __init__(self, size: int, scales: int = 2, angles: int = 8) -> None:
        super().__init__()
        if scales < 1 or 2**scales > size:
            largest = int(math.log2(size))
            raise ValueError(f"scales: got {scales}; for images of {size} pixels it must be 1 to {largest}")
        step = 2**scales
        self.size, self.scales, self.angles = size, scales, angles
        self.side = size // step
        padded = (math.ceil(size / step) + 2) * step
        self.before = (padded - size) // 2 // step * step or step
        self.after = padded - size - self.before
        self.channels = 1 + scales * angles + angles**2 * scales * (scales - 1) // 2
        for j in range(scales):
            matrix = _averaging_matrix(
                padded >> j, step >> j, self.before >> j, self.side, _LOW_PASS_SIGMA * 2 ** (scales - 1 - j)
            )
            self.register_buffer(f"average{j}", matrix.float(), persistent=False)
        bank = [
            torch.stack(
                [
                    _morlet_spectrum(padded, _SIGMA * 2**j, _XI / 2**j, math.pi * k / angles, 4.0 / angles)
                    for k in range(angles)
                ]
            )
            for j in range(scales)
        ]
        self.register_buffer("bank", torch.stack(bank).float(), persistent=False)

    def _average(self, wave: torch.Tensor, level: int) -> torch.Tensor:
        """Low-pass a signal already subsampled by 2^level and read it at the coarse grid."""
        matrix = getattr(self, f"average{level}")
        return matrix @ wave @ matrix.T

    def _transform(self, images: torch.Tensor) -> torch.Tensor:
        margin = (self.before, self.after, self.before, self.after)
        mode = "reflect" if max(self.before, self.after) < self.size else "replicate"
        padded = nn.functional.pad(images, margin, mode=mode)
        out = [self._average(padded, 0).unsqueeze(2)]
        second: list[torch.Tensor] = []
        spectrum = torch.fft.fft2(padded).unsqueeze(2)
        for j in range(self.scales):
            wave = torch.fft.ifft2(_periodise(spectrum * self.bank[j], 2**j)).abs()
            out.append(self._average(wave, j))
            if j + 1 == self.scales:
                break
            inner = torch.fft.fft2(wave).unsqueeze(3)
            for coarser in range(j + 1, self.scales):
                bank = _periodise(self.bank[coarser], 2**j) * 4**j
                waves = torch.fft.ifft2(_periodise(inner * bank, 2 ** (coarser - j))).abs()
                second.append(self._average(waves, coarser).flatten(2, 3))
        return torch.cat(out + second, dim=2).flatten(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scattering coefficients of images [B, C, size, size]; float32, constant under gradients."""
        if images.shape[-1] != self.size or images.shape[-2] != self.size:
            got = tuple(images.shape[-2:])
            raise ValueError(f"images: got {got} pixels, this transform takes {self.size}x{self.size}")
        # Small pieces stay in the processor's cache: three times faster than one piece of 256.
        return torch.cat([self._transform(piece) for piece in images.float().split(_PIECE)])
