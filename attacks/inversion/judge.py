"""What an inversion has found, judged from outside: by another model, and by records not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from attacks.rates import Rate
from attacks.synthetic.distances import nearest

__all__ = ["Resemblance", "recognised", "resemblance"]


@dataclass(frozen=True)
class Resemblance:
    """Whether pictures lie nearer to training records than to fresh ones of the same class.

    Attributes:
        nearer: share of pictures whose nearest record was trained on, of those that are nearer to one kind;
            one half says nothing was remembered. None where all distances are equal.
        chance: probability of at least that share if it is one half, for pictures that are independent. Those
            of one model hardly are: it describes, and is no verdict.
        member, fresh: position of each picture's nearest record of either kind, int64 [N].
        to_member, to_fresh: distances to them, float64 [N].
    """

    nearer: Rate | None
    chance: float
    member: np.ndarray
    fresh: np.ndarray
    to_member: np.ndarray
    to_fresh: np.ndarray


def recognised(evaluate: Callable[[Tensor], Tensor], images: Tensor, classes: Tensor) -> Rate:
    """Share of pictures that a model of one's own, never the one attacked, takes for their class.

    Args:
        evaluate: images [N, C, H, W] to logits [N, K]. classes: int64 [N].
    """
    with torch.no_grad():
        said = evaluate(images).argmax(dim=1)
    return Rate.of(int((said == classes).sum()), len(images))


def resemblance(
    pictures: np.ndarray,
    classes: np.ndarray,
    members: tuple[np.ndarray, np.ndarray],
    fresh: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
) -> Resemblance:
    """Compare each picture with as many training records as fresh ones of its class.

    With unequal numbers the larger set would be nearer by number alone, so a random part of it is taken.

    Args:
        pictures: features [N, P]; of pixels, or of an encoder. classes: int64 [N].
        members: features [M, P] and labels [M] of training records.
        fresh: the same of records of the same kind that were not trained on.
        seed: of the random parts.

    Raises:
        ValueError: a class has no training record or no fresh one.
    """
    rng = np.random.default_rng(seed)
    found = {
        name: (np.empty(len(pictures)), np.empty(len(pictures), dtype=np.int64))
        for name in ("member", "fresh")
    }
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        sides = {"member": np.flatnonzero(members[1] == label), "fresh": np.flatnonzero(fresh[1] == label)}
        count = min(map(len, sides.values()))
        if count == 0:
            raise ValueError(f"class {label}: needs at least one training record and one fresh record")
        for name, (features, _) in (("member", members), ("fresh", fresh)):
            part = np.sort(rng.permutation(sides[name])[:count])
            distances, places = nearest(pictures[own], features[part])
            found[name][0][own], found[name][1][own] = distances[:, 0], part[places[:, 0]]
    (to_member, member), (to_fresh, other) = found["member"], found["fresh"]
    # Equal distances, to two copies say, speak for neither side.
    told = to_member != to_fresh
    hits, trials = int((to_member < to_fresh).sum()), int(told.sum())
    chance = float(stats.binom.sf(hits - 1, trials, 0.5)) if trials else 1.0
    nearer = Rate.of(hits, trials) if trials else None
    return Resemblance(nearer, chance, member, other, to_member, to_fresh)
