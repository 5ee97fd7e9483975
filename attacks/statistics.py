"""What a differential-privacy guarantee still allows an attacker to reach."""

from __future__ import annotations

import math


def tpr_ceiling(epsilon: float, delta: float, fpr: float) -> float:
    """The highest true-positive rate of any membership attack against an (epsilon, delta)-DP release.

    An attacker who must tell "the record was used" from "it was not" and raises a false alarm with
    probability at most ``fpr`` detects a used record with probability at most::

        min(e^epsilon * fpr + delta,  1 - e^-epsilon * (1 - delta - fpr),  1)

    Both bounds follow from the hypothesis-testing view of differential privacy (Wasserman and Zhou 2010;
    Dong, Roth and Su, "Gaussian differential privacy", section 2, trade-off function f_{epsilon,delta}): the
    region of error pairs that the guarantee allows is symmetric, so what bounds one error bounds the other.
    Up to ``fpr = (1 - delta) / (1 + e^epsilon)`` the first bound is the smaller one, beyond it the second.

    Args:
        epsilon: the guarantee's epsilon, >= 0; ``math.inf`` means no guarantee.
        delta: the guarantee's delta, in [0, 1].
        fpr: false-positive rate of the attack, in [0, 1].

    Returns:
        The ceiling, in [fpr, 1]. It bounds the true rate; a rate measured on finitely many records may
        lie above it by chance.

    Raises:
        ValueError: an argument is not a number in its range.
    """
    # Written as "not inside" so that NaN is refused as well.
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be a number >= 0, or infinity; got {epsilon!r}")
    for name, value in (("delta", delta), ("fpr", fpr)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1]; got {value!r}")
    if math.isinf(epsilon):
        # 0 * inf has no value; an unbounded epsilon forbids nothing.
        return 1.0
    # Beyond this exponent the first bound exceeds 1 for every positive fpr that a float can hold.
    grown = fpr * math.exp(min(epsilon, 700.0)) if fpr > 0 else 0.0
    ceiling = min(grown + delta, 1.0 - math.exp(-epsilon) * (1.0 - delta - fpr), 1.0)
    # Guessing at random reaches fpr whatever the guarantee says; this only undoes rounding.
    return max(ceiling, fpr)
