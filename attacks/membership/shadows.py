"""Shadow models: many models like the target, each trained on a random half of the records, in one job.

One model after the other leaves a processor idle most of the time, since each is small. Here parameters of
many models are stacked, and one call of a vectorised step moves all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Recipe", "ShadowModels", "random_halves", "train_shadows"]

MOST_NUMBERS = 2**22
"""Gradient numbers of one step in memory at once, on a processor: more than its cache holds is slower."""
ON_A_GPU = 32
"""How many times as many there."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """How the target was trained, so that shadow models are like it.

    Attributes:
        steps: updates, >= 1.
        sample_rate: probability of a record to be in a step's batch, in (0, 1].
        learning_rate, momentum: of SGD.
        clip: largest norm of a record's gradient, > 0; None trains without clipping, as plain SGD.
        noise_multiplier: standard deviation of the noise on a step's summed gradient, in units of `clip`;
            needs one.
        ema_decay: in [0, 1); above 0 the model ends as the running average of its iterates.
        expected_batch: what a step's summed gradient is divided by, > 0; None takes the sample rate times the
            records of a model.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: int
    sample_rate: float
    learning_rate: float
    momentum: float = 0.0
    clip: float | None = None
    noise_multiplier: float = 0.0
    ema_decay: float = 0.0
    expected_batch: float | None = None

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("steps", self.steps >= 1, ">= 1"),
            ("sample_rate", 0 < self.sample_rate <= 1, "in (0, 1]"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "> 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "> 0 or None"),
            ("noise_multiplier", 0 <= self.noise_multiplier < math.inf, ">= 0"),
            ("noise_multiplier", self.clip is not None or self.noise_multiplier == 0, "0 without a clip"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("expected_batch", self.expected_batch is None or self.expected_batch > 0, "> 0 or None"),
        ):
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be {wanted}")


def random_halves(models: int, records: int, seed: int) -> np.ndarray:
    """Which model is trained on which record, bool [S, N]: each record in exactly half of the models.

    Args:
        models: S, even. records: N.

    Raises:
        ValueError: S is odd or below 2.
    """
    if models < 2 or models % 2:
        raise ValueError(f"models = {models}: must be even, so that each record is in half of them")
    rng = np.random.default_rng(seed)
    order = rng.random((models, records)).argsort(axis=0)
    return order < models // 2


@dataclass(frozen=True)
class ShadowModels:
    """Trained shadow models.

    Attributes:
        model: the network that all of them share; its own weights are of no matter.
        weights: name -> float32 [S, ...].
        inside: bool [S, N], the records of each.
    """

    model: nn.Module
    weights: Mapping[str, Tensor]
    inside: np.ndarray

    def logits(self, images: Tensor, batch: int = 256) -> np.ndarray:
        """What each of them says, float32 [S, N, K].

        Args:
            images: [N, ...]. batch: images at a time.
        """
        self.model.eval()
        buffers = dict(self.model.named_buffers())

        def say(weights: dict[str, Tensor], rows: Tensor) -> Tensor:
            return functional_call(self.model, (weights, buffers), (rows,))

        with torch.no_grad():
            parts = [vmap(say, in_dims=(0, None))(dict(self.weights), rows) for rows in images.split(batch)]
        return torch.cat(parts, dim=1).cpu().numpy()


def train_shadows(
    build: Callable[[int], nn.Module],
    images: Tensor,
    labels: Tensor,
    inside: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    keep: Path | None = None,
    progress: Progress = lambda _done, _all: None,
) -> ShadowModels:
    """Train one model for each row of `inside`, as many at a time as memory allows.

    Args:
        build: a network with fresh weights for a seed. It must give a record the same answer in any batch,
            and change no buffer.
        images: float32 [N, ...]. labels: int64 [N].
        inside: bool [S, N].
        recipe: how each is trained.
        seed: of initial weights, batches and noise. This noise protects nobody.
        keep: a folder in which finished models are kept, so that a job that was stopped goes on where it was;
            other jobs may use the same one.
        progress: is told updates done and updates in all.

    Raises:
        ValueError: shapes do not fit.
    """
    inside = np.asarray(inside, dtype=bool)
    if inside.ndim != 2 or len(images) != len(labels) or inside.shape[1] != len(images):
        raise ValueError(
            f"inside {inside.shape}: must be [S, N] for {len(images)} images and {len(labels)} labels"
        )
    model = build(seed).eval()
    groups = list(_groups(len(inside), _models_at_once(model, inside, recipe, images.is_cuda)))
    whole = recipe.steps * len(groups)
    job_id = _digest(model, images, labels, inside, recipe, seed) if keep else ""
    found: list[dict[str, Tensor]] = []
    for number, group in enumerate(groups):
        path = keep / f"shadows-{job_id}-{group.start}-{group.stop}.safetensors" if keep else None
        weights = _kept(path, images.device)
        if weights is None:
            begun = number * recipe.steps
            job = _Job(build, images, labels, inside[group.start : group.stop], recipe, seed, group.start)
            weights = job.run(lambda step, begun=begun: progress(begun + step, whole))
            _keep(path, weights)
        progress((number + 1) * recipe.steps, whole)
        found.append(weights)
    stacked = {name: torch.cat([weights[name] for weights in found]) for name in found[0]}
    return ShadowModels(model, stacked, inside)


class _Job:
    """The training of one group of models."""

    def __init__(
        self,
        build: Callable[[int], nn.Module],
        images: Tensor,
        labels: Tensor,
        inside: np.ndarray,
        recipe: Recipe,
        seed: int,
        first: int,
    ) -> None:
        self._images, self._labels, self._recipe = images, labels, recipe
        self._inside = torch.from_numpy(inside).to(images.device)
        models = [build(seed + 1 + first + number).eval() for number in range(len(inside))]
        self._model = models[0]
        self._weights = {
            name: torch.stack([dict(model.named_parameters())[name].detach() for model in models])
            for name, _ in models[0].named_parameters()
        }
        self._buffers = dict(models[0].named_buffers())
        self._draws = torch.Generator(images.device).manual_seed(seed * 1_000_003 + first)
        own = recipe.sample_rate * self._inside.sum(dim=1).clamp(min=1)  # [S]
        self._expected = own if recipe.expected_batch is None else torch.full_like(own, recipe.expected_batch)

    def run(self, progress: Callable[[int], None]) -> dict[str, Tensor]:
        recipe = self._recipe
        speed = {name: torch.zeros_like(value) for name, value in self._weights.items()}
        average = {name: value.clone() for name, value in self._weights.items()}
        for step in range(recipe.steps):
            for name, gradient in self._gradients().items():
                speed[name].mul_(recipe.momentum).add_(gradient)
                self._weights[name] = self._weights[name] - recipe.learning_rate * speed[name]
            if recipe.ema_decay:
                decay = min(recipe.ema_decay, (1 + step) / (10 + step))
                for name, value in self._weights.items():
                    average[name].lerp_(value, 1 - decay)
            progress(step + 1)
        return average if recipe.ema_decay else self._weights

    def _gradients(self) -> dict[str, Tensor]:
        """Of all models, name -> [S, ...]: the sum over a Poisson batch, over the expected batch."""
        rows, weights = self._batch()
        images, labels = self._images[rows], self._labels[rows]
        step = self._plain if self._recipe.clip is None else self._clipped
        found = vmap(step)(self._weights, images, labels, weights)
        out = {}
        for name, gradient in found.items():
            if self._recipe.noise_multiplier:
                noise = torch.randn(gradient.shape, generator=self._draws, device=gradient.device)
                gradient = gradient + self._recipe.noise_multiplier * self._recipe.clip * noise
            out[name] = gradient / self._expected.view(-1, *[1] * (gradient.dim() - 1))
        return out

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Positions of records, [S, B], and 1 for those that are in the batch, 0 for padding, [S, B]."""
        shape = self._inside.shape
        drawn = (
            torch.rand(shape, generator=self._draws, device=self._images.device) < self._recipe.sample_rate
        )
        chosen = drawn & self._inside
        widest = max(1, int(chosen.sum(dim=1).max()))
        rows = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :widest]
        return rows, chosen.gather(1, rows).to(self._images.dtype)

    def _loss(self, weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(self._model, (weights, self._buffers), (image[None],))
        return F.cross_entropy(logits, label[None])

    def _plain(
        self, weights: dict[str, Tensor], images: Tensor, labels: Tensor, counted: Tensor
    ) -> dict[str, Tensor]:
        def loss(weights: dict[str, Tensor]) -> Tensor:
            logits = functional_call(self._model, (weights, self._buffers), (images,))
            return (F.cross_entropy(logits, labels, reduction="none") * counted).sum()

        return grad(loss)(weights)

    def _clipped(
        self, weights: dict[str, Tensor], images: Tensor, labels: Tensor, counted: Tensor
    ) -> dict[str, Tensor]:
        rows = vmap(grad(self._loss), in_dims=(None, 0, 0))(weights, images, labels)
        norms = torch.stack([row.flatten(1).square().sum(1) for row in rows.values()]).sum(0).sqrt()
        factors = counted * (self._recipe.clip / (norms + 1e-6)).clamp(max=1.0)
        return {name: torch.tensordot(factors, row, dims=1) for name, row in rows.items()}


def _models_at_once(model: nn.Module, inside: np.ndarray, recipe: Recipe, on_gpu: bool) -> int:
    """How many models are trained together."""
    size = sum(parameter.numel() for parameter in model.parameters())
    batch = recipe.sample_rate * float(inside.sum(axis=1).max(initial=1))
    rows = 1.0 if recipe.clip is None else batch + 4 * math.sqrt(batch) + 1
    return max(1, int(MOST_NUMBERS * (ON_A_GPU if on_gpu else 1) / (size * rows)))


def _groups(models: int, size: int) -> Iterator[range]:
    for start in range(0, models, size):
        yield range(start, min(models, start + size))


def _digest(
    model: nn.Module, images: Tensor, labels: Tensor, inside: np.ndarray, recipe: Recipe, seed: int
) -> str:
    """16 hexadecimal digits that name a job: all that its models follow from."""
    digest = hashlib.sha256(f"{recipe}{seed}{inside.shape}{model}".encode())
    for part in (inside, images.cpu().numpy(), labels.cpu().numpy()):
        digest.update(np.ascontiguousarray(part).tobytes())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _kept(path: Path | None, device: torch.device) -> dict[str, Tensor] | None:
    """Models of an earlier attempt; None where there are none, or they cannot be read."""
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return {name: value.to(device) for name, value in load(path.read_bytes()).items()}
    except SafetensorError:
        return None


def _keep(path: Path | None, weights: Mapping[str, Tensor]) -> None:
    if path is None:
        return
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(save({name: value.contiguous() for name, value in weights.items()}))
    part.replace(path)
