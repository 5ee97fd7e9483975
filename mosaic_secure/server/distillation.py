"""Distillation of the gated teacher into one global model, on synthetic records only.

Loss of a record with teacher probabilities t and student probabilities s, m = (t + s) / 2 (Mosaic, arXiv
2505.19699, stage 6, with the divergence taken between probabilities):
kl * KL(t || s) + ce * CE(argmax t, s) + js * (KL(t || m) + KL(s || m)) / 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mosaic_secure.models.classifiers import trainable_part
from mosaic_secure.progress import READ_EVERY, ReadingCallback
from mosaic_secure.seeds import torch_generator

if TYPE_CHECKING:
    from mosaic_secure.config import DistillConfig

__all__ = ["distil", "distillation_loss", "optimizer_of"]

_BATCH = 512


def distillation_loss(student: Tensor, teacher: Tensor, config: DistillConfig) -> Tensor:
    """Mean loss of a batch: student logits [B, K] against teacher log-probabilities [B, K]."""
    temperature = config.temperature
    soft_student = (student / temperature).log_softmax(-1)
    soft_teacher = (teacher / temperature).log_softmax(-1)
    middle = torch.logaddexp(soft_student, soft_teacher) - math.log(2.0)
    kl = _divergence(soft_teacher, soft_student)
    js = 0.5 * (_divergence(soft_teacher, middle) + _divergence(soft_student, middle))
    ce = nn.functional.cross_entropy(student, teacher.argmax(-1))
    return temperature**2 * (config.kl * kl + config.js * js) + config.ce * ce


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    return (first.exp() * (first - second)).sum(-1).mean()


def optimizer_of(
    model: nn.Module, config: DistillConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer of a student's trainable parameters, and its one-cycle schedule over all steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    else:
        optimizer = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=0.9)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    return optimizer, rate


def distil(
    student: nn.Module,
    images: Tensor,
    teacher: Tensor,
    config: DistillConfig,
    seed: int,
    device: torch.device | str = "cpu",
    features: Tensor | None = None,
    read: ReadingCallback | None = None,
) -> int:
    """Train `student` in place and return on how many records.

    Args:
        images: synthetic, [N, C, S, S] in [0, 1].
        teacher: log-probabilities [N, K] of the teacher on them. Records on which its largest probability is
            below `config.confidence` are left out (all are kept should none pass).
        features: [N, D], what a fixed part of `student` makes of the images, where that is known already.
        read: is told the loss every now and then.
    """
    sure = teacher.exp().amax(-1) >= config.confidence
    kept = sure.nonzero().flatten() if bool(sure.any()) else torch.arange(len(images))
    images, teacher = (images if features is None else features)[kept], teacher[kept]
    student.to(device)
    trained, transform = trainable_part(student)
    if transform is not None and features is None:
        with torch.no_grad():
            images = torch.cat([transform(part.to(device)) for part in images.split(_BATCH)])
    images, teacher = images.to(device), teacher.to(device)
    optimizer, schedule = optimizer_of(trained, config)
    average = None
    if config.ema_student:
        average = torch.optim.swa_utils.AveragedModel(
            trained, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_student)
        )
    stream = torch_generator(seed, "distillation-batches")
    student.train()
    for step in range(config.steps):
        rows = torch.randint(len(images), (config.batch,), generator=stream).to(device)
        loss = distillation_loss(trained(images[rows]), teacher[rows], config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(trained)
        if read is not None and step % READ_EVERY == 0:
            read("distillation/loss", step, loss.item())
    if average is not None:
        trained.load_state_dict(average.module.state_dict())
    student.eval().cpu()
    return len(kept)
