"""Public encoders: fixed maps from images to vectors of norm one, known before any data is seen.

Every encoder here is determined by its name, the image shape and a public seed, so it costs no
privacy. The code of a record is one vector of two blocks, `features` and `pixels`, each of norm one
before weighting; the whole has norm one. The pixel block lets released moments be read as images.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import nn

from mosaic_secure.models.gabor import GaborFeatures
from mosaic_secure.models.names import WAVELET_DIM, WAVELET_SIZE
from mosaic_secure.models.projections import principal_frame, random_frame
from mosaic_secure.models.scattering import Scattering2d
from mosaic_secure.seeds import torch_generator

__all__ = [
    "Encoder",
    "ScatteringFeatures",
    "WaveletFeatures",
    "build_encoder",
    "centre_codes",
    "encode",
    "encoder_names",
]


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _standardise(rows: torch.Tensor) -> torch.Tensor:
    """Each record less its own mean, at norm one: brightness and contrast drop out."""
    return _unit(rows - rows.mean(dim=1, keepdim=True))


class ScatteringFeatures(nn.Module):
    """Scattering coefficients, group-normalised for each record alone, at norm one: [B, D]."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height != width:
            raise ValueError(f"image_shape: scattering takes square images, got {height}x{width}")
        self.transform = Scattering2d(height, scales=2 if height >= 16 else 1)
        total = channels * self.transform.channels
        self.groups = total // 3
        self.dim = total * self.transform.side**2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, C, S, S] in [0, 1] -> [B, D] of norm one."""
        return _unit(nn.functional.group_norm(self.transform(images), self.groups, eps=1e-5).flatten(1))


class _FourierFeatures(nn.Module):
    """Random Fourier features of the Gaussian kernel on standardised pixels (Rahimi and Recht, 2007)."""

    def __init__(self, shape: tuple[int, int, int], dim: int, seed: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim: Fourier features come in pairs, got {dim}; use an even number")
        size = math.prod(shape)
        frequencies = torch.randn(size, dim // 2, generator=torch_generator(seed, "fourier"))
        self.register_buffer("frequencies", frequencies * math.sqrt(2.0 * bandwidth), persistent=False)
        # A light blur: neighbouring pixels carry the same evidence, single-pixel jitter carries none.
        taps = torch.tensor([math.exp(-0.5 / 0.3**2), 1.0, math.exp(-0.5 / 0.3**2)])
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        self.register_buffer("kernel", kernel.expand(shape[0], 1, 3, 3).clone(), persistent=False)
        self.dim = dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
        smooth = nn.functional.conv2d(padded, self.kernel, groups=images.shape[1])
        phase = _standardise(smooth.flatten(1)) @ self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1) / math.sqrt(self.dim / 2)


class _ProjectedScattering(nn.Module):
    """Scattering features on a random orthonormal frame of `dim` directions, at norm one."""

    def __init__(self, image_shape: tuple[int, int, int], dim: int, seed: int) -> None:
        super().__init__()
        self.features = ScatteringFeatures(image_shape)
        self.dim = min(dim, self.features.dim)
        self.register_buffer("frame", random_frame(self.features.dim, self.dim, seed), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _unit(self.features(images) @ self.frame)


class WaveletFeatures(nn.Module):
    """Scattering coefficients and Gabor moduli side by side, each of norm sqrt(1/2): [B, D]."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if image_shape[-1] < WAVELET_SIZE:
            least, got = (f"{size}x{size}" for size in (WAVELET_SIZE, image_shape[-1]))
            raise ValueError(f"image_shape: wavelets take images of {least} pixels or more, got {got}")
        self.scattering = ScatteringFeatures(image_shape)
        self.gabor = GaborFeatures(image_shape)
        self.dim = self.scattering.dim + self.gabor.dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, C, S, S] in [0, 1] -> [B, D] of norm one."""
        return torch.cat([self.scattering(images), self.gabor(images)], dim=1) * math.sqrt(0.5)


@functools.lru_cache(maxsize=4)  # it takes seconds, and a process builds the same encoder many times
def _wavelet_frame(
    image_shape: tuple[int, int, int], dim: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.device("cpu"):
        return principal_frame(WaveletFeatures(image_shape), image_shape, dim, seed)


class _ProjectedWavelets(nn.Module):
    """Wavelet features less their public mean, on principal directions of procedural images, at norm one."""

    def __init__(self, image_shape: tuple[int, int, int], dim: int, seed: int) -> None:
        super().__init__()
        if dim > WAVELET_DIM:
            raise ValueError(f"dim: wavelets have at most {WAVELET_DIM} directions, got {dim}")
        self.features, self.dim = WaveletFeatures(image_shape), dim
        mean, frame = _wavelet_frame(tuple(image_shape), dim, seed)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("frame", frame.clone(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _unit((self.features(images) - self.mean) @ self.frame)


class Encoder(nn.Module):
    """A feature block beside a block of pooled pixels: images [B, C, S, S] -> codes [B, dim] of norm one.

    Attributes:
        dim: length of a code. feature_dim + pixel_dim.
        pixel_side: side of the pooled images; 0 when there is no pixel block.
        pixel_weight: share of the squared norm that the pixel block holds, in [0, 1).
        feature_side: side to which images are averaged before features are taken of them; theirs for none.
    """

    def __init__(
        self,
        features: nn.Module,
        image_shape: tuple[int, int, int],
        pixel_side: int,
        pixel_weight: float,
        feature_side: int | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= pixel_weight < 1.0:
            raise ValueError(f"pixel_weight: got {pixel_weight}; it must be in [0, 1)")
        self.features = features
        self.image_shape = image_shape
        self.feature_side = image_shape[-1] if feature_side is None else feature_side
        self.pixel_side = pixel_side if pixel_weight > 0 else 0
        self.pixel_weight = pixel_weight if pixel_side > 0 else 0.0
        self.feature_dim = features.dim
        self.pixel_dim = image_shape[0] * self.pixel_side**2
        self.dim = self.feature_dim + self.pixel_dim

    def pool(self, images: torch.Tensor) -> torch.Tensor:
        """Standardised pooled pixels of images, [B, C * pixel_side^2], norm one and mean zero a record."""
        small = images
        if images.shape[-1] != self.pixel_side:
            small = nn.functional.adaptive_avg_pool2d(images, self.pixel_side)
        return _standardise(small.flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Codes [B, dim], float32."""
        seen = images
        if images.shape[-1] != self.feature_side:
            seen = nn.functional.adaptive_avg_pool2d(images, self.feature_side)
        features = self.features(seen)
        if not self.pixel_dim:
            return features
        pixels = self.pool(images) * math.sqrt(self.pixel_weight)
        return torch.cat([features * math.sqrt(1.0 - self.pixel_weight), pixels], dim=1)

    def images_from_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images [B, C, S, S] in [0, 1] from pixel blocks [B, pixel_dim], each stretched to the full range.

        The code keeps neither brightness nor contrast, so each image is given the full range of
        values, as pictures usually have.
        """
        low = pixels.amin(dim=1, keepdim=True)
        span = (pixels.amax(dim=1, keepdim=True) - low).clamp_min(1e-6)
        channels, height, width = self.image_shape
        small = ((pixels - low) / span).view(-1, channels, self.pixel_side, self.pixel_side)
        if self.pixel_side == height:
            return small
        large = nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        return large.clamp(0, 1)


class _NoFeatures(nn.Module):
    dim = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.new_zeros(images.shape[0], 0)


def encoder_names() -> tuple[str, ...]:
    """Names that `build_encoder` knows."""
    return ("fourier", "scattering", "wavelets", "pixels")


def build_encoder(
    name: str,
    image_shape: tuple[int, int, int],
    seed: int,
    dim: int = 256,
    *,
    pixel_side: int = 0,
    pixel_weight: float = 0.0,
    feature_side: int | None = None,
) -> Encoder:
    """The public encoder `name` for images [C, S, S].

    Args:
        seed: public; drives the random frame. The same seed gives the same encoder everywhere.
        dim: length of the feature block (scattering: at most all coefficients; wavelets: at most 1024).
        pixel_side, pixel_weight: side of the pooled images and their share of the squared norm.
        feature_side: side to which images are averaged before features are taken; None: they are not.

    Raises:
        ValueError: an unknown name, or a shape or size that the encoder does not take.
    """
    side = image_shape[-1] if feature_side is None else min(feature_side, image_shape[-1])
    seen = image_shape if side == image_shape[-1] else (image_shape[0], side, side)
    if name == "fourier":
        features: nn.Module = _FourierFeatures(seen, dim, seed)
    elif name == "scattering":
        features = _ProjectedScattering(seen, dim, seed)
    elif name == "wavelets":
        features = _ProjectedWavelets(seen, dim, seed)
    elif name == "pixels":
        features = _NoFeatures()
        pixel_weight = 1.0 - 1e-9
        pixel_side = pixel_side or image_shape[-1]
    else:
        raise ValueError(f"encoder: {name!r} is unknown; one of {', '.join(encoder_names())}")
    encoder = Encoder(features, image_shape, min(pixel_side, image_shape[-1]), pixel_weight, side)
    return encoder.requires_grad_(False).eval()


@torch.no_grad()
def encode(encoder: Encoder, images: np.ndarray, batch: int = 512) -> np.ndarray:
    """Codes float32 [N, dim] of images float32 [N, C, S, S]; N may be 0."""
    if not len(images):
        return np.zeros((0, encoder.dim), dtype=np.float32)
    return torch.cat([encoder(part) for part in torch.from_numpy(images).split(batch)]).numpy()


def centre_codes(codes: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Codes [N, dim] less the centre, each at norm one. A record's result depends on no other record."""
    moved = codes - centre
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
