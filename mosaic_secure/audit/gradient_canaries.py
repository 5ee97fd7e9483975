"""Canaries inside DP-SGD: gradients of their own, which an auditor who sees every step looks for.

A canary is a record whose gradient points in one random direction, far beyond the clipping norm, whatever
the weights are: it counts as one record only if it is clipped. The auditor knows the directions and sees
every noisy gradient, as the guarantee of DP-SGD assumes that an adversary does; so the bound tells how sharp
the accounting is, and whether clipping, sampling and noise are what they are said to be. It does not tell
what the final model alone gives away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privacy.dpsgd import DPSGDPlan, PerRecordLoss, train_private
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from privacy.randomness import NoiseSource

__all__ = ["GradientCanaries", "train_with_canaries"]

BEYOND = 10.0
"""Length of a canary's gradient in clipping norms."""


@dataclass(frozen=True)
class GradientCanaries:
    """What was put in, and what the auditor made of it.

    Attributes:
        included: bool [m], by fair coins.
        scores: float64 [m], log-likelihood of being in less that of being out, summed over steps.
    """

    included: np.ndarray
    scores: np.ndarray


def train_with_canaries(
    model: nn.Module,
    per_record_loss: PerRecordLoss,
    records: tuple[Tensor, ...],
    plan: DPSGDPlan,
    noise: NoiseSource,
    count: int,
    rng: np.random.Generator,
    train: Callable[..., None] = train_private,
) -> GradientCanaries:
    """Train `model` privately, in place, with canaries among the records.

    Args:
        records, per_record_loss: as of `train_private`; what is not a canary, one at least.
        plan: must be of SGD without averaging of iterates, since gradients are read off the steps.
        count: m >= 1, at most a tenth of the model's trainable numbers, so that directions stay apart.
        rng: of directions and coins; never the noise's.
        train: what is audited, with the signature of `train_private`.

    Raises:
        PrivacyError: the plan or the number of canaries does not allow it.
    """
    parameters = [value for value in model.parameters() if value.requires_grad]
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    size = sum(value.numel() for value in parameters)
    if not len(records[0]):
        raise PrivacyError("records: there must be one at least")
    if plan.optimizer != "sgd" or plan.ema_decay:
        raise PrivacyError(
            "plan: canaries need SGD without averaging; steps of another kind hide the gradient"
        )
    if not 1 <= count <= size // 10:
        raise PrivacyError(
            f"canaries: {count}; must be from 1 to {size // 10}, a tenth of the {size} weights"
        )
    directions = torch.from_numpy(rng.normal(size=(count, size)).astype(np.float32))
    directions /= directions.norm(dim=1, keepdim=True)
    included = rng.random(count) < 0.5
    numbers = torch.from_numpy(np.flatnonzero(included))
    # Slot 0 is for records; a canary is a copy of one, for its shape, with a direction's number from 1 on.
    table = torch.cat([torch.zeros(1, size), BEYOND * plan.max_grad_norm * directions])
    blank = tuple(part[:1].expand(len(numbers), *part.shape[1:]) for part in records)
    mixed = tuple(torch.cat([part, more]) for part, more in zip(records, blank, strict=True))
    slots = torch.cat([torch.zeros(len(records[0]), dtype=torch.int64), numbers + 1])

    def loss(params: dict[str, Tensor], buffers: dict[str, Tensor], *record: Tensor) -> Tensor:
        *own, slot = record
        real = per_record_loss(params, buffers, *own)
        flat = torch.cat([params[name].flatten() for name in names])
        return torch.where(slot == 0, real, flat @ F.embedding(slot, table))

    watcher = _Watcher(parameters, plan, directions)
    train(model, loss, (*mixed, slots), plan, noise, on_step=watcher.step)
    return GradientCanaries(included, watcher.scores())


class _Watcher:
    """Reads each step's noisy gradient off the weights and scores all canaries by it."""

    def __init__(self, parameters: list[nn.Parameter], plan: DPSGDPlan, directions: Tensor) -> None:
        self._parameters, self._plan, self._directions = parameters, plan, directions
        self._before, self._speed = self._flat(), torch.zeros(directions.shape[1], dtype=torch.float64)
        self._total = np.zeros(len(directions))

    def step(self, _: int) -> None:
        """Called after each update."""
        plan, now = self._plan, self._flat()
        speed = (self._before - now) / plan.learning_rate
        gradient = (speed - plan.momentum * self._speed) * plan.expected_batch_size / plan.max_grad_norm
        self._before, self._speed = now, speed
        found = (self._directions.double() @ gradient).numpy()
        self._total += _evidence(found, plan.noise_multiplier, plan.sample_rate)

    def scores(self) -> np.ndarray:
        return self._total

    def _flat(self) -> Tensor:
        return torch.cat([value.detach().double().flatten() for value in self._parameters])


def _evidence(found: np.ndarray, noise: float, rate: float) -> np.ndarray:
    """Log-likelihood of a Gaussian that is at 1 with probability `rate`, over one at 0; both of `noise`."""
    width = max(noise, 0.05)  # without noise, what other records leave in a direction
    shifted = (2 * found - 1) / (2 * width**2)
    return np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + shifted)
