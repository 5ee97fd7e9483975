"""The global model of a run, ready to classify images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.runs.artefacts import ModelSpec, read_global_model
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.images import as_batch

if TYPE_CHECKING:
    from torch import nn

BATCH = 256


def load(run: str | Path | RunDirectory) -> Predictor:
    """Load the global model of a run.

    Raises:
        UserError: the directory is no run, the run is not finished, or its model is missing or damaged.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    module, spec = read_global_model(directory)
    return Predictor(module, spec)


class Predictor:
    """Classifies images with a trained network, on the CPU.

    Args:
        module: maps float32 images [B, C, H, W] in [0, 1] to logits [B, K].
        spec: its description.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.module = module.eval()
        self.spec = spec

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.spec.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class; the numbers 0 .. K-1 where the data had no names."""
        return self.spec.class_names or tuple(str(label) for label in range(self.num_classes))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) that the network reads."""
        return self.spec.image_shape

    def predict_proba(self, images: Any) -> np.ndarray:
        """Class probabilities, float32 [N, K]; each row sums to 1.

        Args:
            images: an array [N, C, H, W], [N, H, W] (one channel) or [N, H, W, C], or a single image; uint8
                in 0..255 or floating point in [0, 1]. Or a PIL image or a sequence of them, of any size.

        Raises:
            UserError: shape, type or range do not fit.
        """
        import torch

        batch = torch.from_numpy(as_batch(images, self.image_shape))
        with torch.inference_mode():
            rows = [self.module(part).softmax(dim=1) for part in batch.split(BATCH)]
        return torch.cat(rows).numpy() if rows else np.zeros((0, self.num_classes), np.float32)

    def predict(self, images: Any) -> np.ndarray:
        """The likeliest class of each image, int64 [N]; images as in :meth:`predict_proba`."""
        return self.predict_proba(images).argmax(axis=1)
