"""The mixture: class-specific experts inside each architecture group, and the prototype expert.

Expert c of a group has the weights sum_i n_ic w_i / sum_i n_ic over the group's clients, n_ic being noised
class counts (Mosaic, arXiv 2505.19699, stage 3). Experts of one architecture are evaluated as one batched
call.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mosaic_secure.models.classifiers import trainable_part

__all__ = ["ExpertGroup", "Memory", "Mixture", "class_experts"]

_BATCH = 512
_SMALL = 64  # records on which all experts of a group work at once: more fall out of the processor's cache
_MIXED_NUMBERS = 2**23  # of all clients together that are mixed at once: 32 MiB of float32


@dataclass(frozen=True)
class ExpertGroup:
    """Experts of one architecture.

    Attributes:
        architecture: name of the classifier.
        names: one an expert, such as "cnn/class-3" or "mlp/client-1".
        template: a network of that architecture; its own weights are not used.
        weights: parameter name -> [experts, ...], of the part that clients train.
    """

    architecture: str
    names: tuple[str, ...]
    template: nn.Module
    weights: Mapping[str, Tensor]

    @torch.no_grad()
    def features(self, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """What experts see of images [B, C, S, S]: features [B, D] of a fixed trunk, or the images."""
        _, transform = trainable_part(self.template.to(device).eval())
        if transform is None:
            return images
        return torch.cat([transform(batch.to(device)).cpu() for batch in images.split(_BATCH)])

    @torch.no_grad()
    def log_probabilities(
        self, images: Tensor, device: torch.device | str = "cpu", features: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities [B, experts, K] of images [B, C, S, S], all experts in one batched call.

        Args:
            features: `features(images)`, where it is known already.
        """
        trained, _ = trainable_part(self.template.to(device).eval())
        weights = {name: value.to(device) for name, value in self.weights.items()}
        buffers = dict(trained.named_buffers())

        def one(expert: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return functional_call(trained, {**buffers, **expert}, (inputs,))

        size = _SMALL if torch.device(device).type == "cpu" else _BATCH
        parts = []
        for batch in (self.features(images, device) if features is None else features).split(size):
            logits = vmap(one, in_dims=(0, None))(weights, batch.to(device))
            parts.append(_sound(logits.log_softmax(-1)).transpose(0, 1).cpu())
        return torch.cat(parts)

    def expert(self, index: int) -> dict[str, Tensor]:
        """Weights of one expert by parameter name."""
        return {name: value[index] for name, value in self.weights.items()}


def class_experts(
    architecture: str,
    template: nn.Module,
    clients: Sequence[str],
    weights: Mapping[str, Mapping[str, np.ndarray]],
    counts: np.ndarray,
    per_class: bool = True,
) -> ExpertGroup:
    """The experts of one group.

    Args:
        clients: ids of the group's clients.
        weights: client id -> DP-trained weights. Some tensors of all clients are in memory at a time: a
        client is
            asked for as often as it takes.
        counts: [clients, K], their noised class counts; what is below zero counts as zero.
        per_class: False gives one expert, weighted by the clients' whole sizes.

    A group of one client has one expert: all of its class experts would be that client's model. A class that
    nobody in the group seems to have is weighted by the clients' whole sizes.
    """
    if len(clients) == 1:
        alone = {
            name: torch.from_numpy(np.asarray(value)).float()[None]
            for name, value in weights[clients[0]].items()
        }
        return ExpertGroup(architecture, (f"{architecture}/{clients[0]}",), template, alone)
    shares = torch.from_numpy(np.maximum(counts, 0.0)).double()
    sizes = shares.sum(1, keepdim=True)
    if float(sizes.sum()) <= 0:
        sizes = torch.ones_like(sizes)
    shares = torch.where(shares.sum(0) > 0, shares, sizes)
    names = tuple(f"{architecture}/class-{c}" for c in range(shares.shape[1]))
    if not per_class:
        shares, names = sizes, (f"{architecture}/average",)
    shares = (shares / shares.sum(0)).float()
    mixed: dict[str, Tensor] = {}
    for some in _at_once(weights[clients[0]], len(clients)):
        stacked = {name: torch.empty(len(clients), *shape) for name, shape in some.items()}
        for row, client in enumerate(clients):
            given = weights[client]
            for name, value in stacked.items():
                value[row] = torch.from_numpy(np.asarray(given[name]))
        mixed |= {name: torch.einsum("ie,i...->e...", shares, value) for name, value in stacked.items()}
    return ExpertGroup(architecture, names, template, mixed)


def _at_once(first: Mapping[str, np.ndarray], clients: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes by name of tensors that are mixed together, in order: as many as fit, at least one."""
    some: dict[str, tuple[int, ...]] = {}
    held = 0
    for name, value in first.items():
        size = clients * np.size(value)
        if some and held + size > _MIXED_NUMBERS:
            yield some
            some, held = {}, 0
        some[name] = np.shape(value)
        held += size
    yield some


def _sound(answers: Tensor) -> Tensor:
    """Log-probabilities [..., K]; an answer that is not a number is that of an expert which knows nothing."""
    known = answers.isfinite().all(-1, keepdim=True)
    return torch.where(known, answers, answers.new_tensor(-math.log(answers.shape[-1])))


class Memory:
    """What fixed networks made of images, for those who ask the same again, as an ablation does.

    Answers are told apart by the names of a group's experts and by the images' bytes, so one memory serves
    one set of releases only.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Tensor] = {}

    def recall(self, what: tuple[str, ...], images: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make` for `images` [B, C, S, S], made once."""
        digest = hashlib.sha256(images.numpy().tobytes()).digest()
        key = (what, tuple(images.shape), digest)
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]


@dataclass(frozen=True)
class Mixture:
    """All experts of a run, in a fixed order."""

    groups: tuple[ExpertGroup, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all experts."""
        return tuple(name for group in self.groups for name in group.names)

    def log_probabilities(
        self,
        images: Tensor,
        device: torch.device | str = "cpu",
        features: Mapping[str, Tensor] | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """[B, E, K] for images [B, C, S, S].

        Args:
            features: architecture -> `ExpertGroup.features(images)`, of groups for which it is known already.
            memory: of these releases.
        """
        known = features or {}

        def answers(group: ExpertGroup) -> Tensor:
            return group.log_probabilities(images, device, known.get(group.architecture))

        if memory is None:
            return torch.cat([answers(group) for group in self.groups], dim=1)
        parts = [memory.recall(group.names, images, partial(answers, group)) for group in self.groups]
        return torch.cat(parts, dim=1)
