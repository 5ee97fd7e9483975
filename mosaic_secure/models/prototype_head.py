"""A head on the centred codes of a public encoder: the prototype expert, and a strong student for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mosaic_secure.models.classifiers import Classifier
from mosaic_secure.models.encoders import Encoder, build_encoder


class CentredEncoder(nn.Module):
    """An encoder, less a centre, at norm one again. The centre is a buffer and travels with the weights."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = encoder.dim
        self.register_buffer("centre", torch.zeros(encoder.dim))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] to centred codes [B, dim]."""
        moved = self.encoder(images) - self.centre
        return moved / moved.norm(dim=1, keepdim=True).clamp_min(1e-12)


class ResidualHead(nn.Module):
    """A linear map plus, where `hidden` > 0, a small network that starts at zero."""

    def __init__(self, dim: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.residual = None
        if hidden:
            last = nn.Linear(hidden, num_classes)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.residual = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), last)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [B, dim] to logits [B, K]."""
        logits = self.linear(codes)
        return logits if self.residual is None else logits + self.residual(codes)


def build_prototype_head(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    encoder: str = "fourier",
    encoder_seed: int = 0,
    dim: int = 256,
    pixel_side: int = 0,
    pixel_weight: float = 0.0,
    feature_side: int | None = None,
    hidden: int = 0,
) -> Classifier:
    """A classifier on centred codes; only its head is trained, without dependence between records.

    Args:
        encoder, encoder_seed, dim, pixel_side, pixel_weight, feature_side: of `build_encoder`.
        hidden: width of the network beside the linear map; 0 for a linear head.
    """
    public = build_encoder(
        encoder,
        image_shape,
        encoder_seed,
        dim,
        pixel_side=pixel_side,
        pixel_weight=pixel_weight,
        feature_side=feature_side,
    )
    trunk = CentredEncoder(public)
    model = Classifier(trunk, trunk.dim, num_classes, frozen_trunk=True)
    model.head = ResidualHead(trunk.dim, num_classes, hidden)
    return model
