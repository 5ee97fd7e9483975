"""Differentially private training: per-record gradients, clipped and noised by Opacus' optimiser.

One step of DP-SGD (Abadi et al., 1607.00133, Algorithm 1) draws a Poisson sample, computes one gradient for
each sampled record, clips it to ``max_grad_norm``, sums, adds Gaussian noise of standard deviation
``noise_multiplier * max_grad_norm`` and divides by a constant of the plan. Nothing but the Poisson draw
looks at how many records there are, so the result is a function of the plan, the records and the noise
source.

Gradients come from ``vmap(grad)``, 128 rows at a time, each chunk clipped and added before the next is made.
Measured side by side (``python benchmarks/gradients.py gradients``) this takes 2.1 times plain SGD on
convolutional networks of 28x28 images, whole batches 3.3 to 3.7 times and Opacus' hooks 2.8 to 3.9 times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from opacus.optimizers.optimizer import DPOptimizer
from torch import Tensor, nn
from torch.func import grad, vmap

from privacy.errors import PrivacyError
from privacy.randomness import NoiseSource
from privacy.validation import validate

if TYPE_CHECKING:
    from privacy.accounting import SubsampledGaussianEvent

__all__ = ["Augment", "DPSGDPlan", "PerRecordLoss", "train_private"]

_MOST_GRADIENT_NUMBERS = 2**25  # in all rows of a chunk: 128 MiB of float32

PerRecordLoss = Callable[..., Tensor]
"""``loss(params, buffers, *record)`` of ONE record (no batch dimension) -> scalar."""

Augment = Callable[[tuple[Tensor, ...], torch.Generator], tuple[Tensor, ...]]
"""``augment(batch, generator)``: tensors ``[B, ...]`` -> ``[B, K, ...]``, each record from itself alone."""

ExtraGradient = Callable[[int], Mapping[str, Tensor] | None]
"""``extra(step)``: gradients by parameter name that depend on no real record, or None."""


@dataclass(frozen=True)
class DPSGDPlan:
    """Everything that the privacy of a training depends on; decided before any record is read.

    Args:
        noise_multiplier: standard deviation of the noise over ``max_grad_norm``; 0 for no noise and no
            privacy.
        sample_rate: probability that a record takes part in a step, in (0, 1].
        steps: number of steps, all of which are made.
        max_grad_norm: L2 bound of one record's gradient; may be infinite only without noise.
        expected_batch_size: divisor of the summed gradient: sample rate times the *declared* number of
            records.
        learning_rate: step size.
        optimizer: ``"sgd"`` or ``"adam"``.
        momentum: of SGD, or the first beta of Adam, in [0, 1).
        chunk_size: most records whose gradients are held at once (fewer for large models); changes memory and
            speed only.
        ema_decay: in [0, 1); above 0, the model ends as the running average of its iterates
            (post-processing).

    Raises:
        PrivacyError: a value is out of range; the text names it.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    expected_batch_size: float
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.0
    chunk_size: int = 128
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        _require(
            0 <= self.noise_multiplier < math.inf,
            "noise_multiplier",
            self.noise_multiplier,
            "finite and >= 0",
        )
        _require(0 < self.sample_rate <= 1, "sample_rate", self.sample_rate, "in (0, 1]")
        _require(self.steps == int(self.steps) >= 1, "steps", self.steps, "a whole number >= 1")
        finite = self.max_grad_norm < math.inf or self.noise_multiplier == 0
        _require(self.max_grad_norm > 0 and finite, "max_grad_norm", self.max_grad_norm, "finite and > 0")
        size = self.expected_batch_size
        _require(0 < size < math.inf, "expected_batch_size", size, "finite and > 0")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "finite and > 0")
        _require(self.optimizer in ("sgd", "adam"), "optimizer", self.optimizer, "'sgd' or 'adam'")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(self.chunk_size >= 1, "chunk_size", self.chunk_size, ">= 1")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")

    @property
    def event(self) -> SubsampledGaussianEvent:
        """What the accountant is told: the very noise multiplier, sample rate and steps that are run."""
        from privacy.accounting import SubsampledGaussianEvent

        return SubsampledGaussianEvent(self.noise_multiplier, self.sample_rate, self.steps)


def train_private(
    model: nn.Module,
    per_record_loss: PerRecordLoss,
    records: tuple[Tensor, ...],
    plan: DPSGDPlan,
    noise: NoiseSource,
    *,
    augment: Augment | None = None,
    extra_gradient: ExtraGradient | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train the trainable parameters of ``model`` in place; they are then a DP release.

    The model is in evaluation mode meanwhile, so that layers which draw at random (dropout) are off and the
    result is a function of the arguments alone; torch's global random state is neither read nor changed.

    Args:
        model: a network that :func:`privacy.validation.validate` accepts.
        per_record_loss: ``loss(params, buffers, *record) -> scalar`` for one record, differentiable in
            ``params`` (a dict by name, for ``torch.func.functional_call``).
        records: all of the client's records, as tensors with a common first dimension (which may be 0).
        plan: rates, steps, clip and noise.
        noise: the release's own source; sampling, noise and augmentation are children of it.
        augment: gives K views of each record; their losses are averaged before the gradient is clipped, so a
            record still has one clipped row.
        extra_gradient: called once a step, between noise and update. It must not read any real record.
        on_step: called after each update with the step's number (from 0); it is told nothing about the data.

    Raises:
        UnsafeModelError: the model mixes records.
        PrivacyError: the tensors or the loss do not have one row for each record.
    """
    validate(model)
    population = _population(records)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not trained:
        raise PrivacyError("the model has no trainable parameter: unfreeze at least one")
    optimizer = _StrongNoiseOptimizer(
        _base_optimizer(trained.values(), plan), plan, noise.child("gradient-noise")
    )
    sampling = noise.child("poisson-sampling")
    views = _generator(noise.child("augmentation")) if augment else None
    row_gradients = _row_gradients(model, trained, per_record_loss, viewed=augment is not None)
    average = _Average(trained, plan.ema_decay) if plan.ema_decay > 0 else None
    device = next(iter(trained.values())).device
    size = sum(value.numel() for value in trained.values())
    chunk_size = min(plan.chunk_size, max(1, _MOST_GRADIENT_NUMBERS // size))

    was_training = model.training
    model.eval()
    try:
        for step in range(plan.steps):
            chosen = torch.from_numpy(sampling.bernoulli(plan.sample_rate, population).nonzero()[0])
            chunks = chosen.split(chunk_size) if len(chosen) else (chosen,)
            for position, chunk in enumerate(chunks):
                rows = tuple(tensor[chunk.to(tensor.device)].to(device) for tensor in records)
                if augment is not None and len(chunk):
                    rows = _checked_views(augment(rows, views), len(chunk))
                optimizer.accumulate(
                    row_gradients(rows, len(chunk)), len(chunk), last=position == len(chunks) - 1
                )
            if extra_gradient is not None:
                _add(trained, extra_gradient(step))
            optimizer.original_optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(step)
            if on_step is not None:
                on_step(step)
    finally:
        model.train(was_training)
        for parameter in trained.values():
            parameter.grad = None
            parameter.__dict__.pop("grad_sample", None)
            parameter.__dict__.pop("summed_grad", None)
    if average is not None:
        average.install()


class _StrongNoiseOptimizer(DPOptimizer):
    """Opacus' DP optimiser with noise from a NoiseSource and gradients handed in from outside.

    The divisor is the plan's expected batch size; the number of accumulated chunks does not enter it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plan: DPSGDPlan, noise: NoiseSource) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
            loss_reduction="mean",
        )
        self._noise = noise

    def accumulate(self, rows: Sequence[Tensor], count: int, *, last: bool) -> None:
        """Take the gradient rows of one chunk; after the last chunk of a step, add noise and scale."""
        for parameter, row in zip(self.params, rows, strict=True):
            if row.shape != (count, *parameter.shape):
                raise PrivacyError(
                    f"gradient rows have shape {tuple(row.shape)}: expected one row for each of {count} "
                    "records"
                )
            parameter.grad_sample = row
        self.signal_skip_step(not last)
        if not self.pre_step():
            self.zero_grad(set_to_none=True)

    def clip_and_accumulate(self) -> None:
        rows = [row.flatten(1) for row in self.grad_samples]
        if len(rows[0]):
            norms = torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows]).square().sum(0).sqrt()
            sound = torch.isfinite(norms)
            if not sound.all():  # such a record contributes nothing, which is within its bound
                rows = [row.masked_fill(~sound[:, None], 0.0) for row in rows]
            factors = torch.where(sound, (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
        else:
            factors = rows[0].new_zeros(0)
        for parameter, row in zip(self.params, rows, strict=True):
            total = (factors @ row).view_as(parameter)
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    def add_noise(self) -> None:
        parameters = self.params
        scale = self.noise_multiplier * self.max_grad_norm if self.noise_multiplier else 0.0
        if scale:
            sizes = [parameter.numel() for parameter in parameters]
            draws = torch.from_numpy(self._noise.normal((sum(sizes),))).split(sizes)
        for index, parameter in enumerate(parameters):
            parameter.grad = parameter.summed_grad.detach()
            if scale:
                draw = draws[index].view_as(parameter).to(parameter.device, parameter.dtype)
                parameter.grad = parameter.grad.add(draw, alpha=scale)


class _Average:
    """Exponential moving average of the iterates; the decay warms up as (1 + t) / (10 + t)."""

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self._trained = trained
        self._decay = decay
        self._mean = {name: value.detach().clone() for name, value in trained.items()}

    def update(self, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._trained.items():
            self._mean[name].lerp_(value.detach(), 1 - decay)

    def install(self) -> None:
        with torch.no_grad():
            for name, value in self._trained.items():
                value.copy_(self._mean[name])


def _row_gradients(
    model: nn.Module, trained: Mapping[str, nn.Parameter], loss: PerRecordLoss, *, viewed: bool
) -> Callable[[tuple[Tensor, ...], int], list[Tensor]]:
    """Return ``f(rows, count) -> one [count, ...] gradient tensor for each trained parameter``."""
    params = {name: value.detach() for name, value in trained.items()}  # shares storage: follows the updates
    buffers = {name: value.detach() for name, value in model.named_buffers()}

    def of_one_record(params: dict[str, Tensor], *record: Tensor) -> Tensor:
        if viewed:
            in_dims = (None, None) + (0,) * len(record)
            return vmap(loss, in_dims=in_dims)(params, buffers, *record).mean()
        value = loss(params, buffers, *record)
        if value.dim() != 0:
            raise PrivacyError(f"the loss of one record has shape {tuple(value.shape)}: expected a scalar")
        return value

    def compute(rows: tuple[Tensor, ...], count: int) -> list[Tensor]:
        if count == 0:
            return [value.new_zeros((0, *value.shape)) for value in params.values()]
        found = vmap(grad(of_one_record), in_dims=(None,) + (0,) * len(rows))(params, *rows)
        return [found[name] for name in params]

    return compute


def _base_optimizer(parameters: Sequence[nn.Parameter], plan: DPSGDPlan) -> torch.optim.Optimizer:
    if plan.optimizer == "adam":
        return torch.optim.Adam(
            list(parameters), lr=plan.learning_rate, betas=(plan.momentum, 0.999), foreach=True
        )
    return torch.optim.SGD(list(parameters), lr=plan.learning_rate, momentum=plan.momentum, foreach=True)


def _add(trained: Mapping[str, nn.Parameter], extra: Mapping[str, Tensor] | None) -> None:
    for name, value in (extra or {}).items():
        if name not in trained:
            raise PrivacyError(f"extra gradient for {name!r}: expected a trainable parameter of the model")
        trained[name].grad.add_(value.detach())


def _population(records: tuple[Tensor, ...]) -> int:
    if not records or len({len(tensor) for tensor in records}) != 1:
        raise PrivacyError("records must be tensors with one common first dimension")
    return len(records[0])


def _checked_views(views: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    if any(view.dim() < 2 or len(view) != count or view.shape[1] != views[0].shape[1] for view in views):
        raise PrivacyError(
            "augment must return tensors [records, views, ...], one row of views for each record"
        )
    return views


def _generator(noise: NoiseSource) -> torch.Generator:
    """A torch generator for augmentation: repeatable from the release's secret, independent of the seed."""
    return torch.Generator().manual_seed(int(noise.uniform(1)[0] * 2**52))


def _require(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise PrivacyError(f"{field} is {value}: expected {expected}")
