"""A state that is nothing but named arrays, to and from a checkpoint."""

from __future__ import annotations

from dataclasses import fields
from typing import Self

import numpy as np

__all__ = ["ArrayState"]


class ArrayState:
    """Base of dataclasses all of whose fields are arrays."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """The state that `arrays` describes, in float64."""
        return cls(**{f.name: np.asarray(arrays[f.name], dtype=np.float64) for f in fields(cls)})
