"""A model of the auditor's own, which judges pictures that another model has led to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mosaic_secure.seeds import derive_seed, torch_generator

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["train_evaluator"]

STEPS = 1000
BATCH = 128
RATE = 8e-3
DECAY = 1e-2


def train_evaluator(images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> nn.Module:
    """A small convolutional network, trained without noise on records that the run has not seen.

    Args:
        images: float32 [N, C, S, S] in [0, 1]. labels: int64 [N], N > 0.
        seed: of its start and its batches.
    """
    import torch

    from mosaic_secure.models.registry import build_classifier

    start = derive_seed(seed, "evaluator")
    model = build_classifier("cnn", tuple(images.shape[1:]), num_classes, start, width=24).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1)
    stream = torch_generator(seed, "evaluator-batches")
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (BATCH,), generator=stream)
        loss = torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
