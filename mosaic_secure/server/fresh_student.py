"""A plain network that learns from synthetic records alone: what they are worth where there is nothing else.

It takes no part in the run. It starts from nothing, sees the run's synthetic images with the teacher's
labels, and is scored on the public test part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mosaic_secure.models.seeding import build_seeded
from mosaic_secure.seeds import derive_seed, torch_generator

__all__ = ["SCORE", "fresh_student"]

SCORE = "fresh cnn"
"""Its name among the scores of a run."""

_BATCH = 128
_EPOCHS = 3
_LEAST_STEPS = 1000  # of small pools
_RATE = 2e-3
_DECAY = 1e-4


def fresh_student(
    images: Tensor, labels: Tensor, num_classes: int, seed: int, device: torch.device | str = "cpu"
) -> nn.Module:
    """A trained network from images [N, C, S, S] in [0, 1] to logits [N, K], on the CPU.

    Args:
        images, labels: synthetic, with the labels [N] that the teacher gives them; N > 0.
    """
    start = derive_seed(seed, "fresh-student")
    model = build_seeded(lambda: _plain_cnn(images.shape[1:], num_classes), start)
    model.to(device).train()
    batch = min(_BATCH, len(images))
    steps = max(_EPOCHS * (len(images) // batch), _LEAST_STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1)
    stream = torch_generator(seed, "fresh-student-batches")
    images, labels = images.to(device), labels.to(device)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(waiting) < batch:
            waiting = torch.randperm(len(images), generator=stream)
        rows, waiting = waiting[:batch].to(device), waiting[batch:]
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().cpu()


def _plain_cnn(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )
