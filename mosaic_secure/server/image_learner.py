"""How the moments of images are learnt from their encrypted rounds, as the encrypted stage asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.plan import IMAGE_ROUNDS
from mosaic_secure.server import image_moments
from mosaic_secure.server.prototypes import best_counts

if TYPE_CHECKING:
    from mosaic_secure.plan import EncryptedRound, RunPlan
    from mosaic_secure.server.image_moments import ImageState

__all__ = ["ImageLearner"]


class ImageLearner:
    """The moments of images between rounds; `state` is None where the plan has no sampler."""

    title = "images"
    releases = IMAGE_ROUNDS

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self.state: ImageState | None = None
        if plan.release("image_centre") is not None:
            self.state = image_moments.start(plan.sampler_dim, plan.sampler_rank, plan.num_classes)

    def broadcast(self, wanted: EncryptedRound) -> dict[str, np.ndarray]:
        """What clients need to know of earlier rounds for this one; float32."""
        state = self.state
        known = {
            "image_centre": {},
            "image_means": {"centre": state.centre},
            "image_moments": {"means": state.means},
            "image_class_moments": {"means": state.means, "basis": state.basis},
        }[wanted.release]
        return {name: array.astype(np.float32) for name, array in known.items()}

    def learn(
        self,
        wanted: EncryptedRound,
        total: np.ndarray,
        contributors: list[str],
        counts: Mapping[str, np.ndarray],
    ) -> None:
        """Take in one decrypted sum."""
        plan, mechanism, number = self._plan, wanted.mechanism, len(contributors)
        decoded, clip = mechanism.decode(total), plan.image_clip(wanted.release)
        known = self._counts(wanted, decoded, contributors, counts)
        if wanted.release == "image_centre":
            self.state = image_moments.take_centre(self.state, decoded["code_sum"], known, clip)
        elif wanted.release == "image_means":
            self.state = image_moments.take_means(self.state, decoded["class_sums"], known, clip)
        elif wanted.release == "image_moments":
            noise = mechanism.noise_std("second_moments", number)
            self.state = image_moments.take_moments(self.state, decoded["second_moments"], known, clip, noise)
        else:
            noise = mechanism.noise_std("class_second_moments", number)
            self.state = image_moments.take_class_moments(
                self.state, decoded["class_second_moments"], known, clip, noise, plan.config.sampler
            )

    def _counts(
        self,
        wanted: EncryptedRound,
        decoded: Mapping[str, np.ndarray],
        contributors: list[str],
        counts: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        """Class counts [K] of the contributors: as they released them, and as this round's sum has them."""
        complete = all(client in counts for client in contributors)
        released = sum((counts[c] for c in contributors if c in counts), np.zeros(self._plan.num_classes))
        if wanted.release == "image_means":
            if not complete:  # a client whose counts were unusable is in the encrypted sum alone
                return decoded["counts"]
            stds = [m.noise_std("counts", len(contributors)) for m in (wanted.mechanism, self._plan.counts)]
            return best_counts(decoded["counts"], stds[0], released, stds[1])
        if complete or wanted.release == "image_centre":
            return released
        return self.state.counts

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known, for a checkpoint."""
        return self.state.arrays()

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Know what `arrays` hold."""
        self.state = image_moments.ImageState.from_arrays(arrays)
