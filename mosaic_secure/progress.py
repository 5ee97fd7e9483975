"""How far a run has come, as it tells whoever is watching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report of a stage; it says nothing that depends on private data.

    Attributes:
        stage: what is being done, such as ``"prototypes"``; reports with one name belong together.
        done: how many parts of it are done.
        total: how many there are; 0 where that is not known.
        note: a remark to show beside it.
    """

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""

    @property
    def finished(self) -> bool:
        """Whether the stage is complete."""
        return self.total > 0 and self.done >= self.total


ProgressCallback = Callable[[Progress], None]

ReadingCallback = Callable[[str, int, float], None]
"""Is told a number of the server's own work: what it is, such as ``"gate/loss"``, at which step, and the
value. It follows from what clients released and from nothing else."""

READ_EVERY = 10
"""Steps of a training between two readings."""
