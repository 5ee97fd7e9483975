"""The verdict of an audit, and the rule by which it is given.

A test says how improbable what was seen is if the claim holds. It counts for the verdict only if membership
was drawn at random before training and everything about the test was fixed before its result was seen.
Several tests are adjusted for each other (Holm), so that an honest run fails in at most one audit of a
hundred. What is no matter of chance, such as a field that reached a role which must not see it, needs no test
to fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attacks.rates import adjusted
from mosaic_secure.audit.canary_tests import FAMILY_WISE_ERROR, WEIGHTS

if TYPE_CHECKING:
    from mosaic_secure.audit.canary_tests import CanaryTest
    from mosaic_secure.audit.server_view import Check

__all__ = ["Verdict", "decide"]


@dataclass(frozen=True)
class Verdict:
    """What an audit ends in.

    Attributes:
        outcome: "fail", "pass", or "none" where nothing was tested that could have failed the claim.
        sentence: the reason, for a reader who reads nothing else.
        adjusted: test -> p-value after Holm's adjustment.
    """

    outcome: Literal["pass", "fail", "none"]
    sentence: str
    adjusted: Mapping[str, float]


def decide(
    claim: float,
    tests: Sequence[CanaryTest],
    checks: Sequence[Check],
    *,
    can_retrain: bool = True,
    secure: bool = True,
) -> Verdict:
    """The verdict.

    Args:
        claim: the epsilon that was tested.
        tests: of which those that count are weighed.
        checks: of what the server saw.
        can_retrain: whether a fresh run with canaries is possible for this method.
        secure: False where the noise follows from a seed: then nothing stands against whoever knows it.
    """
    counting = {test.name: test for test in tests if test.counts}
    found = adjusted({name: test.chance for name, test in counting.items()}, WEIGHTS)
    broken = [check for check in checks if check.passed is False]
    fallen = sorted((name for name, value in found.items() if value <= FAMILY_WISE_ERROR), key=found.get)
    if broken:
        return Verdict("fail", f"A rule was broken ({broken[0].name}): {broken[0].found}.", found)
    if fallen:
        name = fallen[0]
        chance = f"{max(found[name], 1e-300):.2g}"
        sentence = (
            f"{counting[name].tested} is refuted by {name}: if it held, what was seen would have a chance of "
            f"at most {chance}."
        )
        return Verdict("fail", sentence, found)
    stand = [name for name, test in counting.items() if test.epsilon is not None and test.epsilon >= claim]
    beside = [name for name in counting if name not in stand]
    return Verdict(*_not_fallen(claim, stand, beside, bool(tests), can_retrain, secure), found)


def _not_fallen(
    claim: float, stand: list[str], beside: list[str], made: bool, can_retrain: bool, secure: bool
) -> tuple[Literal["pass", "none"], str]:
    """Outcome and sentence where nothing fell.

    Args:
        stand: tests of the claim that could have refuted it. beside: those that could have refuted only
            something else. made: whether there was a fresh run.
    """
    also = f" Tests of {_listed(beside)} found nothing wrong either." if beside else ""
    if made and not secure:
        return "none", (
            "No verdict: the noise of this configuration follows from its seed, and protects nobody from "
            "whoever knows it."
        )
    if stand:
        return "pass", (
            f"The claim of epsilon {claim:.4g} was tested in a fresh run of this configuration by "
            f"{_listed(stand)}, and stands.{also}"
        )
    if made:
        return "none", (
            f"No verdict: so few canaries cannot refute epsilon {claim:.4g}, were all guesses right.{also}"
        )
    if not can_retrain:
        return "none", (
            "No verdict: this audit describes the run as it is; canaries, which could refute epsilon "
            f"{claim:.4g}, are there for method 'mosaic' with prototypes only."
        )
    return "none", (
        "No verdict: this audit describes the run as it is, and only a fresh run with canaries "
        f"(--retrain) can refute epsilon {claim:.4g}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
