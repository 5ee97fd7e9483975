"""What guesses about canaries test, how many are made, and which share of the error each test may use.

All of it is fixed here, before any result is seen: that is what makes the p-values valid. A test that could
not refute anything, all guesses right, is no test; what its guesses show is reported all the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from attacks.onerun import (
    ApproximateDP,
    GaussianDP,
    Guesses,
    chance_of_guesses,
    epsilon_lower_bound,
    guess,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CLASSIFIERS",
    "FAMILY_WISE_ERROR",
    "MODEL",
    "NOISE",
    "SUMS",
    "SYNTHETIC",
    "TRAINING",
    "WEIGHTS",
    "CanaryTest",
    "against_epsilon",
    "against_noise",
    "can_refute",
]

FAMILY_WISE_ERROR = 0.01

SUMS = "canaries in the prototype sums"
NOISE = "canaries against the planned noise of the sums"
TRAINING = "canaries in DP-SGD of a classifier"
CLASSIFIERS = "canaries in the released classifiers"
MODEL = "canaries in the final model"
SYNTHETIC = "canaries in the synthetic records"

WEIGHTS = {SUMS: 0.5, NOISE: 0.2, TRAINING: 0.1, CLASSIFIERS: 0.1, MODEL: 0.05, SYNTHETIC: 0.05}
"""Share of `FAMILY_WISE_ERROR` of each test; together 1."""

WHO = {
    SUMS: "Somebody who knows every other record and sees every decrypted sum of prototypes, as the server "
    "does. Tested is the claim.",
    NOISE: "The same, with fewer and surer guesses. Tested is whether the noise that the plan promises is "
    "there.",
    TRAINING: "Somebody who sees every step of one such training, beside the run. Tested is what it may "
    "cost.",
    CLASSIFIERS: "Somebody who has all clients' classifiers, and looks for records with wrong labels.",
    MODEL: "Somebody who has the final model alone, and looks for records with wrong labels.",
    SYNTHETIC: "Somebody who has synthetic records alone, and looks for records with wrong labels.",
}
"""Who guesses, for a reader."""

GUESSED = {SUMS: 0.8, NOISE: 0.25, TRAINING: 0.25, CLASSIFIERS: 0.25, MODEL: 0.25, SYNTHETIC: 0.25}
"""Share of the canaries that something is said about, half of them as in and half as out. Where the sums have
no noise every guess is right, and many are needed to refute a large epsilon; elsewhere few and sure ones."""


@dataclass(frozen=True)
class CanaryTest:
    """Guesses about one kind of canaries, and what follows.

    Attributes:
        name: of the test. tested: what falls if it is refuted, at the beginning of a sentence.
        guesses: made and right.
        epsilon, delta: what was tested; None for a test of noise.
        chance: the largest probability of so many right guesses if what is tested holds: a p-value, not yet
            adjusted.
        counts: whether it can refute anything, were all guesses right; only then it is part of the verdict.
        lower_bound: the largest epsilon that the guesses speak against, with confidence 1 - error * weight,
            so that the bounds of all tests hold together; None for a test of noise.
        provable: the same, were all guesses right. lower_bound_95: of this test alone, at 95 %.
    """

    name: str
    tested: str
    guesses: Guesses
    epsilon: float | None
    delta: float | None
    chance: float
    counts: bool
    lower_bound: float | None
    provable: float | None
    lower_bound_95: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"weight": WEIGHTS[self.name], "who": WHO[self.name]}


def against_epsilon(
    name: str, tested: str, scores: np.ndarray, included: np.ndarray, epsilon: float, delta: float
) -> CanaryTest:
    """Test that the scores come from an (epsilon, delta)-DP mechanism.

    Args:
        scores: float [m], larger for canaries that look included. included: bool [m], the coins; m >= 2.
        epsilon: infinite where nothing was promised; then nothing is tested.
    """
    made = guess(scores, included, _each_side(name, len(scores)))
    confidence = 1 - FAMILY_WISE_ERROR * WEIGHTS[name]
    return CanaryTest(
        name=name,
        tested=tested,
        guesses=made,
        epsilon=epsilon,
        delta=delta,
        chance=1.0 if math.isinf(epsilon) else chance_of_guesses(made, ApproximateDP(epsilon, delta)),
        counts=can_refute(name, len(scores), epsilon, delta),
        lower_bound=epsilon_lower_bound(made, delta, confidence),
        provable=epsilon_lower_bound(_all_right(name, len(scores)), delta, confidence),
        lower_bound_95=epsilon_lower_bound(made, delta, 0.95),
    )


def against_noise(name: str, tested: str, scores: np.ndarray, included: np.ndarray, mu: float) -> CanaryTest:
    """Test that the scores come from a Gaussian mechanism, one record changing it by `mu` deviations.

    Args:
        mu: infinite where no noise was promised; then nothing is tested.
    """
    made = guess(scores, included, _each_side(name, len(scores)))
    promised = not math.isinf(mu)
    best = chance_of_guesses(_all_right(name, len(scores)), GaussianDP(mu)) if promised else 1.0
    return CanaryTest(
        name=name,
        tested=tested,
        guesses=made,
        epsilon=None,
        delta=None,
        chance=chance_of_guesses(made, GaussianDP(mu)) if promised else 1.0,
        counts=best <= FAMILY_WISE_ERROR * WEIGHTS[name],
        lower_bound=None,
        provable=None,
    )


def can_refute(name: str, canaries: int, epsilon: float, delta: float) -> bool:
    """Whether so many canaries could refute an (epsilon, delta) at all, if every guess were right and all
    other tests said nothing."""
    if math.isinf(epsilon):
        return False
    best = chance_of_guesses(_all_right(name, canaries), ApproximateDP(epsilon, delta))
    return best <= FAMILY_WISE_ERROR * WEIGHTS[name]


def _each_side(name: str, canaries: int) -> int:
    return max(1, int(GUESSED[name] * canaries / 2))


def _all_right(name: str, canaries: int) -> Guesses:
    made = 2 * _each_side(name, canaries)
    return Guesses(canaries, made, made)
