"""The prototype stage on cached codes: the product's mechanisms and learning rules, without encryption.

What is tried beside them, and is not in the product, is named in `Tried`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_secure.models.encoders import centre_codes
from mosaic_secure.plan import PROTOTYPE_ROUNDS, RunPlan
from mosaic_secure.server import prototypes
from mosaic_secure.server.prototypes import PrototypeState
from mosaic_secure.server.scoring import area_under_roc, balanced_accuracy
from privacy.randomness import NoiseSource


@dataclass(frozen=True)
class Tried:
    """What a row tries beside fields of the configuration, from settings that begin with "try.".

    Attributes:
        features, projection, mirror, power, images: of the encoder, see `encoders_tried`.
        keep: gradients are taken on so many of the strongest directions of the metric only; 0: on all.
        clusters: 1, 2 or 4 sub-classes of each class in the gradient rounds, told apart by the signs of a
            code less its class mean along the strongest directions of the released moments.
        merge: "max" or "sum" (of exponentials) over the sub-classes of a class, in the end.
    """

    features: str = ""
    projection: str = ""
    mirror: str = ""
    power: float = 0.0
    images: int = 10_000
    keep: int = 0
    clusters: int = 1
    merge: str = "max"

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Tried:
        kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        given = {name.removeprefix("try."): text for name, text in settings.items()}
        unknown = sorted(set(given) - set(kinds))
        if unknown:
            raise SystemExit(f"try.{unknown[0]} is unknown; one of {', '.join('try.' + k for k in kinds)}")
        return cls(**{name: kinds[name](text) for name, text in given.items()})

    @property
    def encoder(self) -> tuple[str, str, str]:
        """What makes the encoder another than the product's; all of it empty: the product's."""
        return self.features, self.projection, self.mirror


def learn(
    plan: RunPlan, codes: np.ndarray, labels: np.ndarray, total: int, seed: int, tried: Tried
) -> PrototypeState:
    """What the server knows after all rounds of the prototypes.

    Args:
        codes, labels: [N, dim], [N], learnt from.
        total: records whose ratio of signal to noise is wanted; noise shrinks by N / total.
        seed: of the noise.
    """
    clients, weaker = plan.config.clients.count, len(labels) / total
    rng = np.random.default_rng(seed)
    exact = np.bincount(labels, minlength=plan.num_classes).astype(float)
    spread = plan.counts.noise_std("counts", clients) * weaker if plan.counts else 0.0
    counts = exact + rng.normal(0.0, spread, len(exact))
    state = prototypes.start(codes.shape[1], plan.num_classes)
    moved = codes
    for wanted in plan.rounds:
        if wanted.release not in PROTOTYPE_ROUNDS:
            continue
        made = wanted.mechanism
        made = dataclasses.replace(
            made,
            noise_multiplier=made.noise_multiplier * weaker,
            dim=moved.shape[1],
            classes=state.weights.shape[1],
        )
        sums = noisy_sums(made, moved, labels, clients, rng, state.scaled_weights)
        if wanted.release == "centre":
            state = prototypes.take_centre(state, sums["code_sum"], float(counts.sum()))
            codes = moved = centre_codes(codes, state.centre).astype(np.float32)
        elif wanted.release == "moments":
            stds = [m.noise_std("counts", clients) if m else math.inf for m in (made, plan.counts)]
            known = counts
            if "counts" in sums and plan.counts:
                known = prototypes.best_counts(sums["counts"], stds[0], counts, stds[1] * weaker)
            state = prototypes.take_moments(state, sums, known, made, clients, plan.config.prototypes)
            if tried.keep:
                state = _keep_strongest(state, tried.keep, plan.config.prototypes.radius)
            if tried.clusters > 1:
                labels = _cluster(state, codes, labels, tried.clusters)
                state = _split_classes(state, tried.clusters)
            moved = codes @ state.metric
        else:
            state = prototypes.take_gradient(
                state, sums["gradient"], wanted.round, made, clients, plan.config.prototypes
            )
    return state


def held_out_score(
    plan: RunPlan,
    state: PrototypeState,
    scored: np.ndarray,
    labels: np.ndarray,
    tried: Tried,
    score: str = "accuracy",
) -> float:
    """How good the prototype expert is on codes [N, dim] and labels [N] that were held out.

    Args:
        score: "accuracy", "balanced" (mean recall over classes) or "auc".
    """
    merged = answers(plan, state, scored, tried)
    if score == "auc":
        return float(area_under_roc(merged, labels))
    if score == "balanced":
        return float(balanced_accuracy(merged.argmax(1), labels))
    return float((merged.argmax(1) == labels).mean())


def answers(plan: RunPlan, state: PrototypeState, codes: np.ndarray, tried: Tried) -> np.ndarray:
    """Logits [N, K] that the prototype expert gives to codes [N, dim] as the encoder makes them."""
    logits = centre_codes(codes, state.centre) @ state.weights
    logits = logits.reshape(len(codes), plan.num_classes, -1)
    merged = logits.max(2) if tried.merge == "max" else np.logaddexp.reduce(logits, axis=2)
    return merged + state.bias(plan.config.prototypes.balance)


def noisy_sums(
    made: Any, codes: np.ndarray, labels: np.ndarray, clients: int, rng: np.random.Generator, weights: Any
) -> dict[str, np.ndarray]:
    """What the decrypted sum decodes to: exact sums of the mechanism, and the noise of all clients."""
    exact = dataclasses.replace(made, noise_multiplier=0.0, limit=2**62)
    source = NoiseSource(bytes(32), "no noise is drawn from it")
    values = np.zeros(made.length, dtype=np.int64)
    piece = 5000 if any(s.kind == "second_moments" for s in made.statistics) else 1000
    for part in np.array_split(np.arange(len(labels)), max(1, len(labels) // piece)):
        values += exact.release(codes[part], labels[part], source, weights)
    noise = rng.normal(0.0, made.own_std * clients**0.5, made.length)
    return made.decode(values + np.rint(noise).astype(np.int64))


def _keep_strongest(state: PrototypeState, keep: int, radius: float) -> PrototypeState:
    """The state on the `keep` directions of largest variance; typical codes keep the norm `radius` there."""
    vectors, spectrum = state.vectors[:, -keep:], state.spectrum[-keep:]
    scale = state.scale[-keep:]
    variances = spectrum / max(float(state.counts.sum()), 1.0)
    return dataclasses.replace(
        state,
        weights=vectors @ (vectors.T @ state.weights),
        vectors=vectors,
        values=state.values[-keep:],
        spectrum=spectrum,
        scale=scale * radius / math.sqrt(float((variances * scale**2).sum())),
    )


def _cluster(state: PrototypeState, codes: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Labels of sub-classes: a rule that follows from released numbers, so it costs nothing."""
    axes = state.vectors[:, -1 : -1 - int(math.log2(clusters)) : -1]
    signs = (codes @ axes - (state.means @ axes)[labels] > 0).astype(np.int64)
    return labels * clusters + signs @ (2 ** np.arange(axes.shape[1]))


def _split_classes(state: PrototypeState, clusters: int) -> PrototypeState:
    """Each class's weights, as often as it has sub-classes."""
    names = ("weights", "velocity", "total")
    wider = {name: np.repeat(getattr(state, name), clusters, axis=1) for name in names}
    return dataclasses.replace(state, **wider)
