"""Where an epsilon lies on a picture's axis: logarithmic, and an infinite one apart at the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["EpsilonAxis"]


class EpsilonAxis:
    """Positions on a logarithmic axis, and how far a series is moved aside so that equal values stay visible.

    Args:
        epsilons: rising, at least one. series: how many stand beside each other at each.

    Attributes:
        ticks: position -> label. limits: of the axis.
        edge: between the finite ones and an infinite one, or None.
    """

    def __init__(self, epsilons: Sequence[float], series: int) -> None:
        finite = [math.log10(value) for value in epsilons if math.isfinite(value)] or [0.0]
        gaps = [right - left for left, right in zip(finite, finite[1:], strict=False)]
        apart = max(0.35, (finite[-1] - finite[0]) * 0.3)
        self._infinite = finite[-1] + apart
        self.ticks = {self.of(value): "∞" if math.isinf(value) else f"{value:g}" for value in epsilons}
        self.edge = 10 ** (finite[-1] + apart / 2) if math.inf in epsilons and len(epsilons) > 1 else None
        shown = [math.log10(place) for place in self.ticks]
        span = max(0.3, shown[-1] - shown[0])
        self._step = min(
            (0.025 if len(shown) == 1 else 0.015) * span, 0.4 * min([*gaps, apart]) / max(1, series - 1)
        )
        self._middle = (series - 1) / 2
        margin = self._middle * self._step + 0.06 * span
        self.limits = (10 ** (shown[0] - margin), 10 ** (shown[-1] + margin))

    def of(self, epsilon: float, series: float | None = None) -> float:
        """Position on the axis; with the number of a series, that of its marker."""
        place = self._infinite if math.isinf(epsilon) else math.log10(epsilon)
        aside = 0.0 if series is None else (series - self._middle) * self._step
        return 10 ** (place + aside)

    def share(self, position: float) -> float:
        """From 0 at the left end of the axis to 1 at the right."""
        low, high = (math.log10(limit) for limit in self.limits)
        return (math.log10(position) - low) / (high - low)
