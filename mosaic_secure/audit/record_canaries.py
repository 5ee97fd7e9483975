"""Canaries that are whole records: public pictures under wrong labels, which go through all that clients do.

An attacker who has only what the run releases looks for them: in a client's released classifier, in the final
model, in the synthetic records. Such an attacker sees less than the server sees of the sums, so these bounds
are lower ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attacks.membership.scores import logit_confidence
from attacks.synthetic.distances import nearness

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RecordCanaries", "classifier_scores", "model_scores", "synthetic_scores"]

BATCH = 256


@dataclass(frozen=True)
class RecordCanaries:
    """Records that an audit made up.

    Attributes:
        images: float32 [m, C, H, W] in [0, 1]. labels: int64 [m], wrong ones.
        owners: int64 [m], position of the client that each is dealt to.
        included: bool [m], by fair coins.
    """

    images: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    included: np.ndarray

    @classmethod
    def draw(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        classes: int,
        clients: int,
        count: int,
        rng: np.random.Generator,
    ) -> RecordCanaries:
        """At most `count` of the given records, none twice, each with another label than its own.

        Args:
            images: float32 [N, C, H, W] in [0, 1]. labels: int64 [N]; records that no client has.
        """
        chosen = rng.permutation(len(labels))[:count]
        wrong = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
        owners = np.arange(len(chosen)) % clients
        return cls(images[chosen], wrong, owners, rng.random(len(chosen)) < 0.5)

    def of(self, client: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of those that are in, and dealt to this client."""
        mine = self.included & (self.owners == client)
        return self.images[mine], self.labels[mine]

    @property
    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of all that are in."""
        return self.images[self.included], self.labels[self.included]


def model_scores(model: nn.Module, canaries: RecordCanaries) -> np.ndarray:
    """How sure a model is of each canary's wrong label, float64 [m]."""
    import torch

    with torch.no_grad():
        parts = [model(rows).cpu().numpy() for rows in torch.from_numpy(canaries.images).split(BATCH)]
    return logit_confidence(np.concatenate(parts)[:, None, :], canaries.labels)[:, 0]


def classifier_scores(classifiers: Mapping[int, nn.Module], canaries: RecordCanaries) -> np.ndarray:
    """How much surer the owner's classifier is of each canary than the other clients' are, float64 [m].

    The others' classifiers have not seen the canary, and tell how hard it is.

    Args:
        classifiers: position of a client -> its released classifier; of every owner, and two at least.
    """
    said = {client: model_scores(model, canaries) for client, model in classifiers.items()}
    own = np.stack([said[client] for client in sorted(said)])[
        canaries.owners, np.arange(len(canaries.owners))
    ]
    return own - (sum(said.values()) - own) / (len(said) - 1)


def synthetic_scores(images: np.ndarray, labels: np.ndarray, canaries: RecordCanaries) -> np.ndarray:
    """How much nearer each canary lies to synthetic records of its wrong label than to the rest, float64 [m].

    Args:
        images: uint8 [S, C, H, W], synthetic. labels: int64 [S].
    """
    flat = images.reshape(len(images), -1).astype(np.float64) / 255
    places = canaries.images.reshape(len(canaries.images), -1)
    near: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda mine, rows: (  # noqa: E731
        nearness(places[mine], flat[rows]) if rows.any() else np.zeros(mine.sum())
    )
    scores = np.empty(len(places))
    for label in np.unique(canaries.labels):
        mine, same = canaries.labels == label, labels == label
        scores[mine] = near(mine, same) - near(mine, ~same)
    return scores
