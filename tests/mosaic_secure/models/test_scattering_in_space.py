"""Scattering against sums over pixels: closed forms of the wavelets, no Fourier transform anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mosaic_secure.models.scattering import Scattering2d

WIDTH, FREQUENCY, LOW_PASS = 0.8, 3 * math.pi / 4, 0.8


def wavelet(size: int, scale: int, theta: float, slant: float) -> np.ndarray:
    """Morlet wavelet on a torus of `size` pixels, [size, size] complex, with its centre at (0, 0).

    A Gaussian of deviation sigma along the wave and sigma / slant across it, of mass one, times
    exp(i xi u), less the multiple of that Gaussian which makes the mean zero.
    """
    sigma, xi = WIDTH * 2**scale, FREQUENCY / 2**scale
    pixels = np.arange(size)
    gabor = np.zeros((size, size), dtype=complex)
    gaussian = np.zeros((size, size))
    for wrap_y in range(-3, 4):
        for wrap_x in range(-3, 4):
            y, x = pixels[:, None] + wrap_y * size, pixels[None, :] + wrap_x * size
            along = math.cos(theta) * x + math.sin(theta) * y
            across = -math.sin(theta) * x + math.cos(theta) * y
            bell = np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2))
            bell *= slant / (2 * math.pi * sigma**2)
            gabor += bell * np.exp(1j * xi * along)
            gaussian += bell
    return gabor - gaussian * (gabor.sum() / gaussian.sum())


def convolve(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Circular convolution, one shift of the signal at a time."""
    out = np.zeros(signal.shape, dtype=complex)
    for (dy, dx), weight in np.ndenumerate(kernel):
        out += weight * np.roll(signal, (dy, dx), (0, 1))
    return out


def averages(signal: np.ndarray, level: int, transform: Scattering2d) -> np.ndarray:
    """Gaussian means of a signal sampled at every 2^level-th pixel, read at every 2^scales-th pixel."""
    step = 2 ** (transform.scales - level)
    sigma = LOW_PASS * step / 2
    out = np.zeros((transform.side, transform.side))
    for row in range(transform.side):
        for column in range(transform.side):
            total = mass = 0.0
            for (y, x), value in np.ndenumerate(signal):
                weight = 1.0
                for position, cell in ((y, row), (x, column)):
                    centre = (transform.before >> level) + step * cell
                    gaps = [position - centre + wrap * len(signal) for wrap in (-1, 0, 1)]
                    weight *= sum(math.exp(-0.5 * (gap / sigma) ** 2) for gap in gaps)
                total, mass = total + weight * value, mass + weight
            out[row, column] = total / mass
    return out


def scattered(image: np.ndarray, transform: Scattering2d) -> np.ndarray:
    """All coefficients of one image, order by order."""
    padded = np.pad(image, (transform.before, transform.after), mode="reflect")
    slant, angles = 4 / transform.angles, [math.pi * k / transform.angles for k in range(transform.angles)]
    first, second = [], []
    for scale in range(transform.scales):
        for theta in angles:
            wave = np.abs(convolve(padded, wavelet(len(padded), scale, theta, slant)))
            wave = wave[:: 2**scale, :: 2**scale]
            first.append(averages(wave, scale, transform))
            for coarser in range(scale + 1, transform.scales):
                for other in angles:
                    # On the coarser pixels the same wavelet: sampled, times the area that a pixel stands for.
                    kernel = wavelet(len(padded), coarser, other, slant)[:: 2**scale, :: 2**scale] * 4**scale
                    inner = np.abs(convolve(wave, kernel))[
                        :: 2 ** (coarser - scale), :: 2 ** (coarser - scale)
                    ]
                    second.append(averages(inner, coarser, transform))
    return np.stack([averages(padded, 0, transform), *first, *second])


@pytest.mark.parametrize(("size", "scales", "angles"), [(8, 1, 8), (8, 2, 3), (10, 1, 4)])
def test_coefficients_are_sums_over_pixels(size: int, scales: int, angles: int):
    transform = Scattering2d(size, scales, angles)
    image = np.random.default_rng(size).random((size, size))
    got = transform(torch.from_numpy(image).float()[None, None])[0].numpy()
    np.testing.assert_allclose(got, scattered(image, transform), atol=1e-5)


def test_a_pattern_that_moves_by_one_cell_moves_its_coefficients_by_one_cell():
    transform = Scattering2d(32, 2, angles=4)
    here, there = np.zeros((1, 1, 32, 32), np.float32), np.zeros((1, 1, 32, 32), np.float32)
    pattern = np.random.default_rng(0).random((4, 4))
    here[0, 0, 12:16, 16:20] = pattern
    there[0, 0, 16:20, 12:16] = pattern
    before, after = (transform(torch.from_numpy(x))[0] for x in (here, there))
    assert torch.allclose(before.roll((1, -1), (1, 2)), after, atol=2e-5)
    assert float(before.square().sum()) == pytest.approx(float(after.square().sum()), rel=1e-3)


def test_a_constant_image_has_a_mean_and_no_waves():
    for scales in (1, 2):
        transform = Scattering2d(8, scales)
        found = transform(torch.full((1, 2, 8, 8), 0.7)).view(2, transform.channels, -1)
        assert torch.allclose(found[:, 0], torch.tensor(0.7), atol=1e-5)
        assert float(found[:, 1:].abs().max()) < 1e-5


def test_an_oriented_wave_answers_most_under_its_own_angle():
    transform = Scattering2d(16, 1, angles=4)
    x = torch.arange(16.0)
    wave = torch.cos(0.75 * math.pi * x).expand(16, 16)
    strength = transform(torch.stack([wave, wave.T])[:, None])[:, 1:5].mean((2, 3))
    assert strength.argmax(1).tolist() == [0, 2]
