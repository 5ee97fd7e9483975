"""How the prototype expert learns from its encrypted rounds, as the encrypted stage asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.plan import PROTOTYPE_ROUNDS
from mosaic_secure.server import prototypes
from privacy.mechanisms import LARGEST_WEIGHT

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.server.prototypes import PrototypeState

__all__ = ["PrototypeLearner"]


class PrototypeLearner:
    """The prototype expert between rounds; `state` is None where the plan has no prototypes."""

    title = "prototypes"
    releases = PROTOTYPE_ROUNDS

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self.state: PrototypeState | None = None
        if plan.release("moments") is not None:
            self.state = prototypes.start(plan.code_dim, plan.num_classes)

    def broadcast(self, wanted: EncryptedRound) -> dict[str, np.ndarray]:
        """What clients need to know of earlier rounds for this one."""
        state = self.state
        if wanted.release == "gradient":
            # A lie inside the sums must not make a model that every client refuses.
            weights = np.clip(state.scaled_weights, -LARGEST_WEIGHT, LARGEST_WEIGHT)
            return {"centre": state.centre, "metric": state.metric, "weights": weights}
        return {"centre": state.centre} if wanted.release == "moments" else {}

    def learn(
        self,
        wanted: EncryptedRound,
        total: np.ndarray,
        contributors: list[str],
        counts: Mapping[str, np.ndarray],
    ) -> None:
        """Take in one decrypted sum."""
        config, mechanism, number = self._plan.config.prototypes, wanted.mechanism, len(contributors)
        decoded = mechanism.decode(total)
        if wanted.release == "gradient":
            self.state = prototypes.take_gradient(
                self.state, decoded["gradient"], wanted.round, mechanism, number, config
            )
            return
        released = sum((counts[c] for c in contributors if c in counts), np.zeros(self._plan.num_classes))
        if wanted.release == "centre":
            self.state = prototypes.take_centre(self.state, decoded["code_sum"], float(released.sum()))
            return
        if all(client in counts for client in contributors):
            stds = [m.noise_std("counts", number) for m in (mechanism, self._plan.counts)]
            known = prototypes.best_counts(decoded["counts"], stds[0], released, stds[1])
        else:  # a client whose counts were unusable is in the encrypted sum alone
            known = decoded["counts"]
        self.state = prototypes.take_moments(self.state, decoded, known, mechanism, number, config)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known, for a checkpoint."""
        return self.state.arrays()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Know what `arrays` hold."""
        self.state = prototypes.PrototypeState.from_arrays(arrays)
