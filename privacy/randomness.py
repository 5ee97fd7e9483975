"""Cryptographically strong noise and sampling, all of it derived from one secret per release.

A release stores a fresh 256-bit secret before it draws anything, and a `NoiseSource` turns that secret
into a stream: the same secret, label and sequence of calls give the same numbers, so that a release that
a crash cut short is recomputed and never redrawn. The stream is the keystream of ChaCha20 (RFC 8439) under
a key that HMAC-SHA256 derives from secret and label, and sub-streams for separate purposes come from
`NoiseSource.child`.

Who learns the secret can subtract the noise. It appears in no representation, and a source can be neither
copied nor serialised: two copies would hand out the same noise twice. Draws do not run in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy.special import ndtri

from privacy.errors import PrivacyError

__all__ = ["MAX_DISCRETE_SIGMA", "SECRET_BYTES", "NoiseSource", "fresh_secret", "reproducible_secret"]

SECRET_BYTES = 32
"""Length of a secret in bytes."""

MAX_DISCRETE_SIGMA = 1e12
"""Largest scale that `NoiseSource.discrete_gaussian` draws: beyond it float64 cannot hold the tails."""

_CHUNK = 1 << 17  # numbers drawn at a time: bounds the memory of long draws

Shape = int | tuple[int, ...]


class NoiseSource:
    """One stream of strong pseudo-random numbers.

    Args:
        secret: 32 bytes known to nobody but the owner of the stream; see `fresh_secret`.
        label: what the stream is for. Streams of one secret under two labels are independent.

    Raises:
        PrivacyError: `secret` is not 32 bytes or `label` is not a non-empty string.
    """

    __slots__ = ("_children", "_label", "_root", "_stream")

    def __init__(self, secret: bytes, label: str) -> None:
        if not isinstance(secret, bytes | bytearray | memoryview) or len(secret) != SECRET_BYTES:
            raise PrivacyError(f"a noise secret must be {SECRET_BYTES} bytes")
        _check_label(label)
        self._label = label
        self._root = _derive(bytes(secret), "source", label)
        self._children: set[str] = set()
        key = _derive(self._root, "stream")
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    @property
    def label(self) -> str:
        """What the stream is for, with the labels of its ancestors; not secret."""
        return self._label

    def child(self, label: str) -> NoiseSource:
        """Open an independent stream for one purpose; the parent's own stream does not move.

        Args:
            label: non-empty and not used before on this source: a label used twice would hand out the same
                noise twice, and noise that is used twice cancels.

        Raises:
            PrivacyError: the label is empty, not a string, or was used before.
        """
        _check_label(label)
        if label in self._children:
            path = f"{self._label}/{label}"
            raise PrivacyError(f"noise stream {path} was opened before: noise is never drawn twice")
        self._children.add(label)
        child = NoiseSource(_derive(self._root, "child"), label)
        child._label = f"{self._label}/{label}"
        return child

    def uniform(self, shape: Shape) -> npt.NDArray[np.float64]:
        """Uniform float64 numbers in the open interval (0, 1), of the given shape.

        They are the odd multiples of 2^-53, symmetric about one half: neither 0 nor 1 occurs.
        """
        dims = _dims(shape)
        out = np.empty(math.prod(dims), dtype=np.float64)
        for start in range(0, out.size, _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = self._words(part.size) >> np.uint64(12)
            part += 0.5
            part *= 2.0**-52
        return out.reshape(dims)

    def normal(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.floating]:
        """Standard normal numbers: the inverse normal distribution function of `uniform`, in `dtype`.

        Magnitudes end at 8.2, beyond which 2.2e-16 of the mass lies. The values are floating-point numbers,
        so mechanisms that use them are open to attacks on low-order bits (Mironov, CCS 2012);
        `discrete_gaussian` is not.

        Args:
            shape: of the result.
            dtype: a floating type, float32 by default; the inverse is computed in float64.

        Raises:
            PrivacyError: `dtype` is not a floating type, or `shape` is not one.
        """
        kind = np.dtype(dtype)
        if kind.kind != "f":
            raise PrivacyError(f"normal noise needs a floating type, not {kind}")
        dims = _dims(shape)
        out = np.empty(math.prod(dims), dtype=kind)
        for start in range(0, out.size, _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = ndtri(self.uniform(part.size))
        return out.reshape(dims)

    def bernoulli(self, p: float, n: int) -> npt.NDArray[np.bool_]:
        """`n` independent coins, each true with probability `p`, as in Poisson sampling.

        The probability is exact up to 2^-64 and never above `p`.

        Args:
            p: in [0, 1].
            n: number of coins, at least 0.

        Raises:
            PrivacyError: `p` or `n` is out of range.
        """
        if not 0.0 <= p <= 1.0:
            raise PrivacyError(f"sampling probability must be in [0, 1], not {p}")
        (count,) = _dims(n)
        out = np.empty(count, dtype=np.bool_)
        threshold = int(math.ldexp(p, 64))
        for start in range(0, count, _CHUNK):
            part = out[start : start + _CHUNK]
            words = self._words(part.size)
            part[:] = True if threshold >= 1 << 64 else words < np.uint64(threshold)
        return out

    def discrete_gaussian(self, sigma: float, n: int) -> npt.NDArray[np.int64]:
        """`n` independent integers from the discrete Gaussian N_Z(0, sigma^2).

        The mass at k is proportional to exp(-k^2 / (2 sigma^2)). The sampler is Algorithm 3 of Canonne,
        Kamath and Steinke (NeurIPS 2020, arXiv 2004.00010), vectorised: a discrete Laplace proposal of
        scale t = floor(sigma) + 1, drawn as a uniform remainder and a geometric quotient (their Algorithm 2),
        is accepted with probability exp(-(|y| - sigma^2/t)^2 / (2 sigma^2)). Those probabilities are
        evaluated in float64 and compared with 52-bit uniforms, so out to 6 sigma each mass is right to a
        relative error below 1e-8; the support is the integers, whatever the rounding.

        Args:
            sigma: scale in units of the grid, 0 or in (0, 1e12]; 0 gives zeros and draws nothing. From sigma
                of 1 on, the standard deviation equals sigma to six digits.
            n: number of integers, at least 0.

        Raises:
            PrivacyError: `sigma` or `n` is out of range.
        """
        if not 0.0 <= sigma <= MAX_DISCRETE_SIGMA:
            raise PrivacyError(f"discrete Gaussian sigma must be in [0, {MAX_DISCRETE_SIGMA:g}], not {sigma}")
        (count,) = _dims(n)
        out = np.zeros(count, dtype=np.int64)
        if sigma == 0.0:
            return out
        scale = math.floor(sigma) + 1
        peak = sigma * sigma / scale
        filled = 0
        while filled < count:
            # 0.48 of the proposals survive for large sigma and 0.26 at worst
            magnitude, negative = self._discrete_laplace(scale, min(_CHUNK, 2 * (count - filled) + 64))
            distance = (magnitude - peak) / sigma
            kept = self.uniform(magnitude.size) < np.exp(-0.5 * distance * distance)
            drawn = np.where(negative, -magnitude, magnitude)[kept][: count - filled]
            out[filled : filled + drawn.size] = drawn
            filled += drawn.size
        return out

    def _discrete_laplace(self, scale: int, proposals: int) -> tuple[np.ndarray, np.ndarray]:
        """Magnitudes (int64) and signs of the discrete Laplace draws that survive among the proposals."""
        words = self._words(proposals)
        last = (1 << 64) // scale * scale - 1  # words above it form an incomplete block: modulo bias
        fair = words <= np.uint64(last)
        remainder = (words % np.uint64(scale)).astype(np.int64)
        kept = fair & (self.uniform(proposals) < np.exp(remainder / -scale))
        quotient = np.floor(-np.log(self.uniform(proposals))).astype(np.int64)
        negative = self.bernoulli(0.5, proposals)
        magnitude = remainder + scale * quotient
        kept &= ~(negative & (magnitude == 0))  # zero has one sign only
        return magnitude[kept], negative[kept]

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        """The next `n` 64-bit words of the keystream."""
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8").astype(np.uint64, copy=False)

    def __repr__(self) -> str:
        return f"NoiseSource({self._label!r})"

    def __copy__(self) -> NoReturn:
        raise TypeError("a NoiseSource cannot be copied: both copies would draw the same noise")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a NoiseSource cannot be serialised: it holds a secret")


def fresh_secret() -> bytes:
    """32 bytes from the operating system's generator, for one release."""
    return os.urandom(SECRET_BYTES)


def reproducible_secret(seed: int, *labels: str) -> bytes:
    """A secret that anyone who knows `seed` can compute: it protects nothing.

    Only for experiments under an explicit `insecure_reproducible_noise`, where one seed must give one result.

    Args:
        seed: any integer.
        labels: what the secret is for (run, client, release, round); other labels give an independent secret.

    Raises:
        PrivacyError: `seed` is not an integer or a label is not a non-empty string.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise PrivacyError(f"the seed of reproducible noise must be an integer, not {seed!r}")
    for label in labels:
        _check_label(label)
    key = hashlib.sha256(b"mosaic-secure insecure reproducible noise").digest()
    return _derive(key, "seed", str(seed), *labels)


def _derive(key: bytes, *parts: str) -> bytes:
    """HMAC-SHA256 of the parts, each prefixed by its length so that no two lists of parts collide."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode()
        mac.update(len(data).to_bytes(8, "big"))
        mac.update(data)
    return mac.digest()


def _check_label(label: object) -> None:
    if not isinstance(label, str) or not label:
        raise PrivacyError("the label of a noise stream must be a non-empty string")


def _dims(shape: Shape) -> tuple[int, ...]:
    dims = shape if isinstance(shape, tuple) else (shape,)
    sizes = []
    for size in dims:
        if isinstance(size, bool) or not hasattr(size, "__index__") or size.__index__() < 0:
            raise PrivacyError(f"a shape must be non-negative integers, not {shape!r}")
        sizes.append(size.__index__())
    return tuple(sizes)
