from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mosaic_secure.models.scattering import Scattering2d


def _wavelet(size: int, scale: int, angle: float, slant: float) -> np.ndarray:
    """Spectrum of a Morlet wavelet that repeats after 2 pi, with mean zero."""
    sigma, centre = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    omega = 2 * math.pi * np.fft.fftfreq(size)
    spectra = []
    for frequency in (centre, 0.0):
        total = np.zeros((size, size))
        for shift_y in range(-2, 3):
            for shift_x in range(-2, 3):
                wy = omega[:, None] + 2 * math.pi * shift_y
                wx = omega[None, :] + 2 * math.pi * shift_x
                along = math.cos(angle) * wx + math.sin(angle) * wy
                across = -math.sin(angle) * wx + math.cos(angle) * wy
                total += np.exp(-0.5 * sigma**2 * ((along - frequency) ** 2 + (across / slant) ** 2))
        spectra.append(total)
    gabor, gaussian = spectra
    return gabor - gaussian * gabor[0, 0] / gaussian[0, 0]


def _reference(image: np.ndarray, transform: Scattering2d) -> np.ndarray:
    """Scattering of one image [S, S] by Fourier transforms, subsampled only after the low-pass filter."""
    scales, angles = transform.scales, transform.angles
    padded = np.pad(image, (transform.before, transform.after), mode="reflect")
    size = len(padded)

    def modulus(signal: np.ndarray, scale: int, angle: int) -> np.ndarray:
        spectrum = _wavelet(size, scale, math.pi * angle / angles, 4 / angles)
        return np.abs(np.fft.ifft2(np.fft.fft2(signal) * spectrum))

    def smooth(signal: np.ndarray, scale: int) -> np.ndarray:
        step = 2**scale  # a modulus of this scale is kept at every 2^scale-th point
        kept = signal[::step, ::step]
        matrix = getattr(transform, f"average{scale}").double().numpy()
        return matrix @ kept @ matrix.T

    first = {(j, k): modulus(padded, j, k) for j in range(scales) for k in range(angles)}
    maps = [smooth(padded, 0), *(smooth(wave, j) for (j, _), wave in first.items())]
    for (j, _), wave in first.items():
        for coarser in range(j + 1, scales):
            maps += [smooth(modulus(wave, coarser, k), coarser) for k in range(angles)]
    return np.stack(maps)


@pytest.mark.parametrize(("size", "scales"), [(8, 1), (16, 2), (28, 2), (32, 2)])
def test_the_transform_is_that_of_the_textbook(size: int, scales: int):
    transform = Scattering2d(size, scales, angles=4)
    images = torch.rand(2, 2, size, size, generator=torch.Generator().manual_seed(0))
    got = transform(images)
    assert got.shape == (2, 2 * transform.channels, size // 2**scales, size // 2**scales)
    wanted = np.stack([_reference(image.double().numpy(), transform) for image in images.flatten(0, 1)])
    assert np.abs(got.flatten(0, 1).reshape(wanted.shape).numpy() - wanted).max() < 1e-5


def test_an_image_has_the_same_coefficients_in_any_company():
    transform = Scattering2d(16, 2, angles=4)
    images = torch.rand(37, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = transform(images)
    alone = torch.cat([transform(images[index : index + 1]) for index in (0, 17, 36)])
    assert torch.allclose(together[[0, 17, 36]], alone, atol=1e-6)
    assert transform(images[:0]).shape == (0, transform.channels, 4, 4)


def test_gradients_are_finite_even_where_no_wave_is():
    transform = Scattering2d(16, 2, angles=4)
    images = torch.zeros(2, 1, 16, 16)
    images[1, 0, 5, 5] = 1.0
    images.requires_grad_(True)
    transform(images).sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad[1].abs().sum() > 0


def test_images_of_another_size_and_impossible_scales_are_refused():
    with pytest.raises(ValueError, match="takes 16x16"):
        Scattering2d(16)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="must be 1 to 3"):
        Scattering2d(8, scales=4)
