"""What a client's reply may hold: bytes, names and shapes, counts, and how far a training can move weights.

Every bound follows from the plan, or from a constant beside it, and never from what other clients send: a
client cannot make an honest one look odd. Bounds are wide. They keep numbers from overflowing and a liar from
being listened to without end; they do not tell an honest training from a poisoned one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.client.training import initial_classifier, weights_of
from mosaic_secure.masking import mask_terms
from mosaic_secure.models.global_model import build_global_model
from mosaic_secure.models.registry import build_generator
from mosaic_secure.protocol.fields import Message
from mosaic_secure.protocol.messages import (
    EnrolReply,
    FineTuneReply,
    LocalTrainingReply,
    MaskSharesReply,
    MaskViewReply,
    PrototypeReply,
    SealReply,
    UnmaskReply,
)
from mosaic_secure.seeds import derive_seed
from privacy.canonical import canonical_json
from privacy.secagg.contribution import Expectation

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.plan import RunPlan
    from privacy.dpsgd import DPSGDPlan

__all__ = [
    "IMPLAUSIBLE",
    "MALFORMED",
    "ExpectedModels",
    "adam_reach",
    "counts_fault",
    "most_bytes",
    "sgd_reach",
]

MALFORMED = "malformed"
"""Not of the names, shapes and types that the plan asks for, or a number that is none."""
IMPLAUSIBLE = "implausible"
"""Numbers that no client that does as agreed could have sent."""

_MORE_RECORDS = 10.0
"""Times as many records as declared may a client hold: declared numbers are rounded, and folders grow."""
_TAIL = 9.0  # standard deviations: passed by a Gaussian with p < 1e-18
_ADAM_SECOND = 0.999  # Adam's second beta, in `privacy/dpsgd.py` and `client/generator_training.py`
_SLACK = 2**16  # bytes for what surrounds the payload of any message: names, ids, codes, a ledger's head
_NAME = 64  # bytes for shape and type of an array, beside its name
_ID = 128  # bytes of an id, or of a share of a mask, with what frames it
_RELEASE = 1024  # bytes of one release in a ledger's excerpt

Arrays = Mapping[str, np.ndarray]


def most_bytes(plan: RunPlan) -> dict[type[Message], int]:
    """Most bytes of each kind of reply that clients send under `plan`."""
    config, counts = plan.config, 8 * plan.num_classes
    contribution = max(
        (Expectation("", "", "", plan.ckks, r.length).max_bytes for r in plan.rounds), default=0
    )
    trained = 0
    if config.classifier.enabled:
        trained += max(_size(_classifier(plan, name)) for name in config.architecture_groups)
    if config.generator.enabled:
        trained += _size(_generator(plan))
    tuned = _size(weights_of(build_global_model(plan))) if config.fine_tune.rounds else 0
    keys, box = 0, 0
    if plan.is_masked:  # a key and a commitment, in hex, and two names for each round
        keys = len(plan.rounds) * 2 * (64 + _ID)
        box = mask_terms(plan, "", {client: b"" for client in config.client_ids}).box_bytes
    planned = plan.budget.to_dict()
    excerpt = len(canonical_json(planned)) + _RELEASE * sum(r.rounds for r in plan.budget.releases)
    return {
        EnrolReply: keys + _SLACK,
        PrototypeReply: contribution + counts + _SLACK,
        LocalTrainingReply: trained + counts + _SLACK,
        FineTuneReply: tuned + counts + _SLACK,
        SealReply: excerpt + _SLACK,
        MaskSharesReply: config.clients.count * (box + _ID) + _SLACK,
        MaskViewReply: _SLACK,
        UnmaskReply: config.clients.count * _ID + _SLACK,
    }


def counts_fault(arrays: Arrays, plan: RunPlan, index: int, *, wanted: bool = True) -> str | None:
    """What is wrong with the noised class counts of client `index`; None if they can be used.

    They must be float64 [K], none below zero by more than nine standard deviations of its noise, nor their
    sum above ten times the records that this client is declared to hold by more than nine of its own. So a
    client that lies about its size cannot outweigh all others for ever. Where none are `wanted`, none must
    come.
    """
    if not wanted or plan.counts is None:
        return MALFORMED if arrays else None
    found = arrays.get("counts")
    if arrays.keys() != {"counts"} or found.shape != (plan.num_classes,) or found.dtype != np.float64:
        return MALFORMED
    if not np.isfinite(found).all():
        return MALFORMED
    tail = plan.counts.tail / plan.counts.grid + 1.0
    most = _MORE_RECORDS * plan.declared[index] + tail * math.sqrt(plan.num_classes)
    return None if (found >= -tail).all() and float(found.sum()) <= most else IMPLAUSIBLE


def sgd_reach(plan: DPSGDPlan, numbers: int) -> float:
    """How far, in L2 norm, DP-SGD can move `numbers` weights; passed with a probability below 1e-15.

    One step adds (sum of clipped gradients + noise) / B, B being the expected batch. With momentum m a step's
    gradient moves the weights by at most lr / (1 - m) times itself in all. The clipped gradients of T steps
    have norms of C for each record drawn: n in all, a sum of coin tosses of mean mu <= 10 T B, so that n <=
    mu + 9 sqrt(mu) + 27 (Bernstein). The noise adds up to a Gaussian of at most
    lr / (1 - m) * sigma C / B * sqrt(T) in each of d coordinates, whose norm is at most that times sqrt(d) +
    9. Averaging iterates, and a pull towards the start, lead no further. With Adam: `adam_reach` in each
    coordinate.
    """
    if plan.optimizer == "adam":
        return math.sqrt(numbers) * adam_reach(plan.learning_rate, plan.momentum, plan.steps)
    batch, steps = plan.expected_batch_size, plan.steps
    drawn = _MORE_RECORDS * steps * batch
    drawn += _TAIL * math.sqrt(drawn) + 3.0 * _TAIL
    noise = plan.noise_multiplier * math.sqrt(steps) * (math.sqrt(numbers) + _TAIL)
    return plan.learning_rate / (1.0 - plan.momentum) * plan.max_grad_norm / batch * (drawn + noise)


def adam_reach(learning_rate: float, momentum: float, steps: int) -> float:
    """How far Adam can move one weight in `steps` steps, whatever the gradients.

    In step t it moves by lr * m / sqrt(v), bias-corrected averages of the gradients and of their squares
    under decays a and b. By Cauchy and Schwarz |m| / sqrt(v) is at most
    (1 - a) / (1 - a^t) * sqrt((1 - b^t) / (1 - b) * sum over i < t of (a^2 / b)^i).
    """
    a, b, t = momentum, _ADAM_SECOND, np.arange(1, steps + 1)
    ratio = a * a / b
    powers = (1.0 - ratio**t) / (1.0 - ratio)
    return float(
        learning_rate * ((1.0 - a) / (1.0 - a**t) * np.sqrt((1.0 - b**t) / (1.0 - b) * powers)).sum()
    )


class ExpectedModels:
    """What clients may send as trained weights: names, shapes and types, and how far from where they
    started."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._classifier = cache(lambda architecture: _classifier(plan, architecture))
        self._generator = cache(lambda: _generator(plan))

    def local_fault(
        self, reply: LocalTrainingReply, index: int, start: Arrays | None, *, last: bool
    ) -> str | None:
        """What is wrong with a reply of local training; None if nothing is.

        Args:
            index: position of the client.
            start: the weights that the classifier started from; None for those that all start from.
            last: whether this is the last round, which brings generator and, without encrypted rounds,
            counts.
        """
        plan, config = self._plan, self._plan.config
        architecture = config.architecture_of(index)
        first = self._classifier(architecture)
        return (
            self._trained_fault("classifier", reply.classifier, start or first, index, architecture)
            or self._generator_fault(reply.generator, wanted=last and config.generator.enabled)
            or counts_fault(reply.counts, plan, index, wanted=last and not plan.rounds)
        )

    def tuned_fault(self, weights: Arrays, index: int, start: Arrays) -> str | None:
        """What is wrong with weights [of the global model] after a round of client `index` from `start`."""
        return self._trained_fault("fine_tune", weights, start, index, None)

    def _trained_fault(
        self, name: str, weights: Arrays, start: Arrays, index: int, architecture: str | None
    ) -> str | None:
        if not _same_form(weights, start):
            return MALFORMED
        training = self._plan.dpsgd(name, self._plan.declared[index], architecture)
        moved = math.sqrt(sum(float(_moved(weights, start, n) @ _moved(weights, start, n)) for n in start))
        reach = sgd_reach(training, sum(array.size for array in start.values()))
        return None if moved <= _rounded_up(reach) else IMPLAUSIBLE

    def _generator_fault(self, weights: Arrays, *, wanted: bool) -> str | None:
        start = self._generator() if wanted else {}
        if not _same_form(weights, start):
            return MALFORMED
        config = self._plan.config.generator
        updates = config.warmup + config.steps * config.generator_steps
        reach = _rounded_up(adam_reach(config.learning_rate, config.momentum, updates))
        inside = all(float(np.abs(_moved(weights, start, name)).max(initial=0.0)) <= reach for name in start)
        return None if inside else IMPLAUSIBLE


def _same_form(weights: Arrays, start: Arrays) -> bool:
    return weights.keys() == start.keys() and all(
        array.shape == start[name].shape
        and array.dtype == start[name].dtype
        and bool(np.isfinite(array).all())
        for name, array in weights.items()
    )


def _moved(weights: Arrays, start: Arrays, name: str) -> np.ndarray:
    """From `start` to `weights`, flat; float64, in which the largest float32 can be squared."""
    return (weights[name].astype(np.float64) - start[name]).ravel()


def _rounded_up(reach: float) -> float:
    """With room for the rounding of float32 along the way."""
    return 1.01 * reach + 1e-3


def _classifier(plan: RunPlan, architecture: str) -> dict[str, np.ndarray]:
    return weights_of(initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes))


def _generator(plan: RunPlan) -> dict[str, np.ndarray]:
    """The generator that all clients start from."""
    config: RunConfig = plan.config
    model = build_generator(
        config.generator.architecture,
        plan.image_shape,
        plan.num_classes,
        derive_seed(config.seed, "generator"),
        latent_dim=config.generator.latent_dim,
    )
    return {name: value.numpy() for name, value in model.state_dict().items()}


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes + len(name) + _NAME for name, array in arrays.items())
