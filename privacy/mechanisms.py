"""The Gaussian mechanism on sums of clipped records, on an integer grid.

Clipping and noise live in one object, so that neither can be used without the other: the mechanism
takes raw codes, clips them, adds up the statistics it was built for and adds noise scaled to the
sensitivity that its own clipping implies. Sums are rounded to an integer grid *before* integer
noise is drawn, which closes the low-order-bit attack on floating-point noise (Mironov 2012) and lets
encrypted sums decode exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.accounting import GaussianEvent
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    import numpy as np

    from privacy.randomness import NoiseSource

__all__ = ["LARGEST_WEIGHT", "Statistic", "SumMechanism", "grid_for"]

# Largest L2 norm of one record's contribution, for a code of norm <= 1, where nothing else clips it.
_BOUNDS = {
    "counts": 1.0,  # one-hot label
    "code_sum": 1.0,  # p
    "class_sums": 1.0,  # p (x) onehot(y)
    "second_moments": 1.0,  # upper triangle of p p^T, off-diagonals times sqrt 2: its norm is |p|^2
    "class_second_moments": 1.0,  # the same in the slot of the record's class, zeros in all others
    "gradient": math.sqrt(2.0),  # p (x) (softmax - onehot(y)): |softmax - onehot| <= sqrt 2
}
# Canonne, Kamath and Steinke 2020; Kairouz, Liu and Steinke 2021: sums of discrete Gaussians of at least this
# standard deviation differ from one discrete Gaussian, and that from a continuous one, by under 1e-60.
_FINEST_NOISE = 4.0
_TAIL = 9.0  # standard deviations of its own noise that each client's part leaves free: passed with p < 1e-18
LARGEST_WEIGHT = 1e6  # of a broadcast model: keeps the softmax from overflowing, at any length of codes


@dataclass(frozen=True)
class Statistic:
    """One block of a release: a statistic by name, its weight against the other blocks, and its bound.

    A larger weight means less noise on this block and more on the others. Weight is > 0. ``clip`` is for
    "gradient" only: the norm, > 0, to which one record's gradient is clipped (None: sqrt 2, which no gradient
    exceeds). Most records of a model that has begun to learn have small gradients, so that a bound below
    sqrt 2 costs little signal and saves its part of the noise.
    """

    kind: str
    weight: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _BOUNDS:
            raise PrivacyError(f"statistic: {self.kind!r} is unknown; one of {', '.join(_BOUNDS)}")
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise PrivacyError(f"weight of {self.kind}: got {self.weight}; it must be finite and above 0")
        if self.clip is not None and not (self.kind == "gradient" and 0 < self.clip < math.inf):
            raise PrivacyError(
                f"clip of {self.kind}: got {self.clip}; it is for gradients alone, finite and above 0"
            )

    @property
    def bound(self) -> float:
        """Largest L2 norm of one record's contribution, before the weight."""
        return _BOUNDS[self.kind] if self.clip is None else min(self.clip, _BOUNDS[self.kind])

    def size(self, dim: int, classes: int) -> int:
        """Number of coordinates."""
        sizes = {
            "counts": classes,
            "code_sum": dim,
            "class_sums": dim * classes,
            "second_moments": dim * (dim + 1) // 2,
            "class_second_moments": classes * dim * (dim + 1) // 2,
            "gradient": dim * classes,
        }
        return sizes[self.kind]


@dataclass(frozen=True)
class SumMechanism:
    """One Gaussian release of weighted sums over a client's records.

    Attributes:
        statistics: the blocks, in order. Their joint L2 sensitivity under adding or removing one record
            is sqrt(sum (weight * bound)^2), derived here and nowhere typed in.
        dim: length of a code. classes: number of classes (all class slots are always released).
        noise_multiplier: sigma over sensitivity of the noise that the *guarantee* rests on; 0 for none.
        honest: clients who share that noise; each adds variance sigma^2 / honest. 1 means own noise suffices.
        grid: integer units per 1.0 of a weighted statistic.
        limit: outputs lie in [-limit, limit], so that encrypted sums cannot overflow. Exact sums are clamped
            *before* the noise, with room for its tail, so that no client's noise is cut away where its sum is
            large: under shared noise the others rely on it. A clamp moves no two values further apart, so
            the sensitivity stays.
    """

    statistics: tuple[Statistic, ...]
    dim: int
    classes: int
    noise_multiplier: float
    honest: int = 1
    grid: float = 1024.0
    limit: int = 2**62

    def __post_init__(self) -> None:
        if not self.statistics or len({s.kind for s in self.statistics}) != len(self.statistics):
            raise PrivacyError("statistics: name each statistic once, and at least one")
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise PrivacyError(f"noise_multiplier: got {self.noise_multiplier}; it must be finite and >= 0")
        if self.honest < 1 or self.grid <= 0 or self.limit < 1:
            raise PrivacyError("honest, grid and limit must be positive")

    @property
    def length(self) -> int:
        """Number of integers released."""
        return sum(s.size(self.dim, self.classes) for s in self.statistics)

    @property
    def sensitivity(self) -> float:
        """Joint L2 sensitivity of the weighted sums, before the grid."""
        return math.sqrt(sum((s.weight * s.bound) ** 2 for s in self.statistics))

    @property
    def grid_sensitivity(self) -> float:
        """L2 sensitivity of the integers: rounding moves each coordinate of a difference by at most 1."""
        return self.sensitivity * self.grid + math.sqrt(self.length)

    @property
    def target_std(self) -> float:
        """Standard deviation, grid units, of the noise that the guarantee rests on."""
        return self.noise_multiplier * self.grid_sensitivity

    @property
    def own_std(self) -> float:
        """Standard deviation, grid units, of the noise that one client adds."""
        return self.target_std / math.sqrt(self.honest)

    @property
    def tail(self) -> int:
        """Room, grid units, that one client's noise stays within but for a chance of 1e-18."""
        return math.ceil(_TAIL * self.own_std)

    @property
    def event(self) -> GaussianEvent:
        """What the accountant is told."""
        return GaussianEvent(self.noise_multiplier)

    def noise_std(self, kind: str, contributors: int) -> float:
        """Standard deviation of the noise on a coordinate of `kind` in the sum of `contributors` clients."""
        weight = next(s.weight for s in self.statistics if s.kind == kind)
        return self.own_std * math.sqrt(contributors) / (self.grid * weight)

    def release(
        self, codes: np.ndarray, labels: np.ndarray, source: NoiseSource, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Clip, add up, round, add noise.

        Args:
            codes: [N, dim]; rows are clipped to norm 1, rows that are not finite count as zero. N may be 0.
            labels: [N] integers in [0, classes).
            source: strong randomness of this release alone.
            weights: [dim, classes] of the broadcast softmax model; needed for "gradient" only.

        Returns:
            int64 [length].

        Raises:
            PrivacyError: shapes or labels do not fit, or see `check_noise` and `check_weights`.
        """
        import numpy as np

        self.check_noise()
        if any(s.kind == "gradient" for s in self.statistics):
            self.check_weights(weights)
        codes, labels = self._clipped(codes, labels)
        blocks = [
            s.weight * self.grid * _sums(s, codes, labels, self.classes, weights) for s in self.statistics
        ]
        room = float(self.limit - self.tail)
        exact = np.rint(np.clip(np.concatenate(blocks), -room, room)).astype(np.int64)
        noise = source.discrete_gaussian(self.own_std, len(exact))
        return np.clip(exact + noise, -self.limit, self.limit)

    def check_noise(self) -> None:
        """Refuse a grid or a limit on which the noise would not be the one that is accounted.

        Raises:
            PrivacyError: the noise is too small for its grid, or the limit would cut it.
        """
        if self.noise_multiplier and self.own_std < _FINEST_NOISE:
            raise PrivacyError(
                f"grid: one client's noise has a standard deviation of {self.own_std:.3g} units, below "
                f"{_FINEST_NOISE:g}, where discrete noise no longer adds up like a Gaussian; use a finer grid"
            )
        if self.tail >= self.limit:
            raise PrivacyError(
                f"limit: {self.limit} leaves no room for the noise, which reaches {self.tail}; use a coarser "
                "grid or less noise"
            )

    def check_weights(self, weights: np.ndarray | None) -> None:
        """Refuse a broadcast model that "gradient" cannot take; may be asked before anything is charged.

        An overflow would make the softmax of some records not a number: a sum without any bound. The refusal
        depends on the broadcast alone.

        Raises:
            PrivacyError: missing, of another shape, or with numbers that are too large or none.
        """
        import numpy as np

        shape = (self.dim, self.classes)
        if weights is None or np.shape(weights) != shape or not (np.abs(weights) <= LARGEST_WEIGHT).all():
            raise PrivacyError(
                f"weights: the gradient needs numbers of shape {list(shape)}, none beyond {LARGEST_WEIGHT:g}"
            )

    def decode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Statistics from a released vector or a sum of them: int64 [length] -> arrays by kind.

        Shapes: counts [classes]; code_sum [dim]; class_sums and gradient [dim, classes]; second_moments
        [dim, dim] and class_second_moments [classes, dim, dim], symmetric.
        """
        import numpy as np

        if np.shape(values) != (self.length,):
            raise PrivacyError(f"values: got shape {np.shape(values)}; this release has {self.length}")
        out: dict[str, np.ndarray] = {}
        start = 0
        for s in self.statistics:
            size = s.size(self.dim, self.classes)
            block = np.asarray(values[start : start + size], dtype=np.float64) / (self.grid * s.weight)
            start += size
            if s.kind == "second_moments":
                block = _unpack(block, self.dim)
            elif s.kind == "class_second_moments":
                block = np.stack([_unpack(part, self.dim) for part in block.reshape(self.classes, -1)])
            elif s.kind in ("class_sums", "gradient"):
                block = block.reshape(self.dim, self.classes)
            out[s.kind] = block
        return out

    def _clipped(self, codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        codes = np.asarray(codes, dtype=np.float64)
        labels = np.asarray(labels)
        if codes.ndim != 2 or codes.shape[1] != self.dim or labels.shape != (len(codes),):
            raise PrivacyError(f"codes and labels must have shapes [N, {self.dim}] and [N]")
        if len(labels) and (labels.min() < 0 or labels.max() >= self.classes):
            raise PrivacyError(f"labels must lie in [0, {self.classes})")
        finite = np.isfinite(codes).all(axis=1)
        codes = np.where(finite[:, None], codes, 0.0)
        norms = np.linalg.norm(codes, axis=1, keepdims=True)
        return codes / np.maximum(norms, 1.0), labels


def grid_for(max_sum: int, records: int, clients: int, mechanism: SumMechanism) -> SumMechanism:
    """The mechanism on the finest grid whose sum over all clients cannot overflow.

    Args:
        max_sum: largest absolute integer that decodes exactly (a property of the encryption parameters).
        records: declared records of all clients together.
        clients: number of clients; each may use an equal part of `max_sum`, and is clamped to it. Where one
            client holds most records, coordinates beyond its part would be cut.

    Raises:
        PrivacyError: when not even a grid of 16 units per 1.0 fits, or the noise is too small for the grid.
    """
    import dataclasses

    limit = max_sum // clients
    weight = max(s.weight for s in mechanism.statistics)
    # No coordinate of one record exceeds weight; noise tails are linear in the grid but for rounding. Each
    # client is clamped by itself, so each needs room for its whole noise: it does not average out.
    root = math.sqrt(mechanism.length)
    tail = _TAIL * mechanism.noise_multiplier * clients / math.sqrt(mechanism.honest)
    grid = (max_sum - tail * root) / (records * weight + tail * mechanism.sensitivity)
    if grid < 16:
        raise PrivacyError(
            f"overflow: sums over {records} records and the noise need more than {max_sum}; use fewer "
            "records, less noise, or larger encryption parameters"
        )
    power = 2.0 ** min(24, math.floor(math.log2(grid)))
    fitted = dataclasses.replace(mechanism, grid=power, limit=limit)
    fitted.check_noise()
    return fitted


def _sums(
    statistic: Statistic, codes: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray | None
) -> np.ndarray:
    import numpy as np

    kind = statistic.kind
    if kind == "code_sum":
        return codes.sum(axis=0)
    if kind == "second_moments":
        return _pack(codes.T @ codes)
    if kind == "class_second_moments":
        parts = [codes[labels == label] for label in range(classes)]
        return np.concatenate([_pack(part.T @ part) for part in parts])
    onehot = np.zeros((len(codes), classes))
    onehot[np.arange(len(codes)), labels] = 1.0
    if kind == "counts":
        return onehot.sum(axis=0)
    if kind == "class_sums":
        return (codes.T @ onehot).ravel()
    errors = _softmax(codes @ weights) - onehot
    if statistic.clip is not None:
        # A record's gradient is the outer product of code and error: its norm is the product of their norms.
        norms = np.linalg.norm(codes, axis=1) * np.linalg.norm(errors, axis=1)
        errors /= np.maximum(norms / statistic.bound, 1.0)[:, None]
    return (codes.T @ errors).ravel()


def _softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    return shifted / shifted.sum(axis=1, keepdims=True)


def _pack(matrix: np.ndarray) -> np.ndarray:
    import numpy as np

    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))


def _unpack(packed: np.ndarray, dim: int) -> np.ndarray:
    import numpy as np

    rows, columns = np.triu_indices(dim)
    matrix = np.zeros((dim, dim))
    matrix[rows, columns] = packed / np.where(rows == columns, 1.0, math.sqrt(2.0))
    return matrix + np.triu(matrix, 1).T
