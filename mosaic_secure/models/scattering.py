"""The two-dimensional scattering transform: fixed wavelets, modulus, averaging.

A scattering network (Bruna and Mallat, "Invariant Scattering Convolution Networks", 2013) has no
trained weights, so its features may be public and still be good: a linear model on them is what
Tramèr and Boneh (2021) found to beat DP-SGD on convolutional networks at small epsilon.

Circular convolutions are written as products with real matrices, which at these sizes are faster than
fast Fourier transforms and which every export format knows: a Fourier transform along x, at each
frequency one matrix along y that filters and subsamples, and the inverse transform along x at the
points that are kept.
"""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["Scattering2d"]

_SIGMA = 0.8  # spatial width of the finest wavelet, pixels
_XI = 3.0 * math.pi / 4.0  # centre frequency of the finest wavelet, radians a pixel
_LOW_PASS_SIGMA = 0.8
_PIECE = 16
_NOTHING = 1e-10  # smaller matrix entries become zero: denormal numbers make products much slower
_FLOOR = 1e-12  # of a squared modulus: keeps its gradient finite where a wave vanishes


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
    """Spectrum [..., Q, Q] of the signal subsampled by `factor` in both directions."""
    size = spectrum.shape[-1] // factor
    folded = spectrum.unflatten(-1, (factor, size)).unflatten(-3, (factor, size))
    return folded.mean((-4, -2))


def _angles(frequencies: int, points: torch.Tensor, size: int) -> torch.Tensor:
    """Phases 2 pi k x / size, [frequencies, points]."""
    return 2.0 * math.pi / size * torch.outer(torch.arange(frequencies, dtype=torch.float64), points.double())


def _analysis_matrix(size: int) -> torch.Tensor:
    """Fourier transform of a real signal: [2 * (size / 2 + 1), size], real and imaginary rows in turn."""
    phase = _angles(size // 2 + 1, torch.arange(size), size)
    return torch.stack([phase.cos(), -phase.sin()], dim=1).flatten(0, 1)


def _synthesis_matrix(size: int, stride: int) -> torch.Tensor:
    """Inverse of `_analysis_matrix`, read at 0, stride, ...: [size / stride, 2 * (size / 2 + 1)]."""
    phase = _angles(size // 2 + 1, torch.arange(0, size, stride), size)
    weights = torch.full((size // 2 + 1, 1), 2.0 / size, dtype=torch.float64)
    weights[0] = weights[-1] = 1.0 / size  # these frequencies have no mirror image of their own
    return torch.stack([weights * phase.cos(), -weights * phase.sin()], dim=1).flatten(0, 1).T


def _filter_matrices(spectra: torch.Tensor, stride: int) -> torch.Tensor:
    """Filters along y at each frequency along x, for the real and the imaginary part of the filtered signal.

    Args:
        spectra: [L, Q, Q], real, of L complex filters; rows are frequencies along y.

    Returns:
        [Q / 2 + 1, 2, 2 * Q, L * 2 * Q / stride]: at a frequency along x, for the real and the imaginary part
        of the result, from (real, imaginary) parts of Q values to (filter, part of the signal, point).
    """
    size = spectra.shape[-1]
    half = size // 2 + 1
    mirrored = spectra.flip(-1, -2).roll((1, 1), (-1, -2))
    # A filter with a real spectrum has a real part with an even spectrum, an imaginary one with an odd one.
    parts = torch.stack([spectra + mirrored, -1j * (spectra - mirrored)], dim=1)[..., :half] / 2
    kept = torch.polar(torch.tensor(1.0 / size).double(), _angles(size, torch.arange(0, size, stride), size))
    read = torch.polar(torch.tensor(1.0).double(), -_angles(size, torch.arange(size), size))
    maps = torch.einsum("lpfk,fo,fi->kilpo", parts, kept, read).flatten(2)  # [half, Q, L * 2 * Q / stride]
    real = torch.cat([maps.real, -maps.imag], dim=1)
    imaginary = torch.cat([maps.imag, maps.real], dim=1)
    both = torch.stack([real, imaginary], dim=1)
    return torch.where(both.abs() < _NOTHING, 0.0, both)


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
        for level in range(scales):
            forth = _analysis_matrix(padded >> level)
            self.register_buffer(f"analysis{level}", forth.float(), persistent=False)
            for coarser in range(level, scales) if level == 0 else range(level + 1, scales):
                stride = 2 ** (coarser - level)
                filters = _filter_matrices(_periodise(bank[coarser], 2**level) * 4**level, stride)
                back = _synthesis_matrix(padded >> level, stride)
                self.register_buffer(f"filters{level}{coarser}", filters.float(), persistent=False)
                self.register_buffer(f"synthesis{level}{coarser}", back.float(), persistent=False)

    def _spectrum(self, wave: torch.Tensor, level: int) -> torch.Tensor:
        """Fourier transform along x of waves [Q, N, Q]: [Q / 2 + 1, 1, N, 2 * Q], ready for `_moduli`."""
        size, signals, _ = wave.shape
        parts = getattr(self, f"analysis{level}") @ wave.reshape(size, signals * size)
        half = size // 2 + 1
        return parts.view(half, 2, signals, size).transpose(1, 2).reshape(half, 1, signals, 2 * size)

    def _moduli(self, spectrum: torch.Tensor, level: int, coarser: int) -> torch.Tensor:
        """Moduli of N signals under all angles of a scale, subsampled: [Q', N, L, Q'], first axis x."""
        filtered = spectrum @ getattr(self, f"filters{level}{coarser}")
        back = getattr(self, f"synthesis{level}{coarser}")
        waves = (back @ filtered.flatten(0, 1).flatten(1)).view(
            len(back), spectrum.shape[2], self.angles, 2, len(back)
        )
        return waves.square().sum(3).clamp_min(_FLOOR).sqrt()

    def _average(self, wave: torch.Tensor, level: int) -> torch.Tensor:
        """Low-pass waves [Q, N, channels, Q] and read them at the coarse grid: [side, N, channels, side]."""
        matrix = getattr(self, f"average{level}")
        return (matrix @ wave.flatten(1)).view(len(matrix), *wave.shape[1:]) @ matrix.T

    def _transform(self, images: torch.Tensor) -> torch.Tensor:
        margin = (self.before, self.after, self.before, self.after)
        mode = "reflect" if max(self.before, self.after) < self.size else "replicate"
        padded = nn.functional.pad(images, margin, mode=mode).flatten(0, 1).permute(2, 0, 1).contiguous()
        signals = padded.shape[1]
        out = [self._average(padded.unsqueeze(2), 0)]
        second: list[torch.Tensor] = []
        spectrum = self._spectrum(padded, 0)
        for j in range(self.scales):
            wave = self._moduli(spectrum, 0, j)
            out.append(self._average(wave, j))
            if j + 1 == self.scales:
                break
            inner = self._spectrum(wave.flatten(1, 2), j)
            for coarser in range(j + 1, self.scales):
                waves = self._moduli(inner, j, coarser).unflatten(1, (signals, self.angles)).flatten(2, 3)
                second.append(self._average(waves, coarser))
        found = torch.cat(out + second, dim=2).permute(1, 2, 3, 0)  # [signals, channels, y, x]
        return found.reshape(images.shape[0], images.shape[1] * self.channels, self.side, self.side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scattering coefficients of images [B, C, size, size]; float32."""
        if images.shape[-1] != self.size or images.shape[-2] != self.size:
            got = tuple(images.shape[-2:])
            raise ValueError(f"images: got {got} pixels, this transform takes {self.size}x{self.size}")
        images = images.float()
        if torch.compiler.is_exporting():
            return self._transform(images)
        # Small pieces stay in the processor's cache.
        return torch.cat([self._transform(piece) for piece in images.split(_PIECE)])
