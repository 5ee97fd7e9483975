"""Small classifiers for images from 8x8 to 64x64, made for training with per-record gradients.

Every classifier is a ``trunk`` (images to a feature vector) followed by a linear ``head``. No layer
mixes the records of a batch. Inputs are images in [0, 1]; each image is standardised by its own mean and
spread, which needs no statistic of any data set.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mosaic_secure.errors import UserError

SPREAD_FLOOR = 0.1


class PerImageStandardise(nn.Module):
    """Subtract the mean of each image and divide by its spread (never below ``SPREAD_FLOOR``).

    Input and output: ``[B, C, H, W]``.
    """

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        centred = images - mean
        spread = centred.square().mean(dim=(1, 2, 3), keepdim=True).add(1e-8).sqrt()
        return centred / spread.clamp(min=SPREAD_FLOOR)


class Classifier(nn.Module):
    """A trunk and a linear head.

    Args:
        trunk: maps images ``[B, C, H, W]`` in [0, 1] to features ``[B, feature_dim]``.
        feature_dim: width of the features.
        num_classes: number of logits.
        frozen_trunk: the trunk is a fixed public encoder; only the head is trained.
    """

    def __init__(
        self, trunk: nn.Module, feature_dim: int, num_classes: int, *, frozen_trunk: bool = False
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(feature_dim, num_classes)
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.frozen_trunk = frozen_trunk
        if frozen_trunk:
            trunk.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to features ``[B, feature_dim]``."""
        return self.trunk(images)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.head(self.features(images))


class StandardisedConv2d(nn.Conv2d):
    """Convolution with filters of zero mean and unit norm (Qiao et al., 1903.10520, section 3)."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        fan_in = flat.shape[1]
        weight = F.layer_norm(flat, (fan_in,), eps=1e-5).mul(fan_in**-0.5).view_as(self.weight)
        return F.conv2d(inputs, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def halvings(side: int, target: int) -> int:
    """Return how often ``side`` is halved (rounding down) until it is below ``2 * target``."""
    count = 0
    while side >= 2 * target:
        side //= 2
        count += 1
    return count


def _check_shape(image_shape: tuple[int, int, int], smallest: int = 8) -> tuple[int, int, int]:
    channels, height, width = image_shape
    if channels < 1 or min(height, width) < smallest:
        raise UserError(
            f"image shape {tuple(image_shape)}: expected (channels >= 1, height >= {smallest}, width >= "
            f"{smallest})"
        )
    return channels, height, width


def build_cnn(
    image_shape: tuple[int, int, int], num_classes: int, *, width: int = 16, hidden: int = 64
) -> Classifier:
    """Two tanh convolutions and one hidden layer (20k to 60k parameters).

    The first convolution strides when the image is larger than 16 pixels, so the cost grows slowly with the
    image. Tanh activations follow Papernot et al., 2007.14191, section 4.
    """
    channels, height, columns = _check_shape(image_shape)
    large = min(height, columns) > 16
    first = (
        nn.Conv2d(channels, width, 5, stride=2, padding=2)
        if large
        else nn.Conv2d(channels, width, 3, padding=1)
    )
    layers: list[nn.Module] = [PerImageStandardise(), first, nn.Tanh()]
    rows, cols = ((height + 1) // 2, (columns + 1) // 2) if large else (height, columns)
    layers.append(nn.AvgPool2d(2))
    rows, cols = rows // 2, cols // 2
    layers += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.Tanh()]
    for _ in range(halvings(min(rows, cols), 3)):
        layers.append(nn.AvgPool2d(2))
        rows, cols = rows // 2, cols // 2
    layers += [nn.Flatten(), nn.Linear(2 * width * rows * cols, hidden), nn.Tanh()]
    return Classifier(nn.Sequential(*layers), hidden, num_classes)


def build_cnn_wide(
    image_shape: tuple[int, int, int], num_classes: int, *, width: int = 24, groups: int = 8
) -> Classifier:
    """Three weight-standardised convolutions with GroupNorm, averaged to a 2x2 grid of features.

    Group normalisation and weight standardisation together: De et al., 2204.13650, section 3.
    """
    if width % groups:
        raise UserError(f"width {width}: expected a multiple of groups ({groups})")
    channels, height, columns = _check_shape(image_shape)
    large = min(height, columns) > 16
    stride = 2 if large else 1
    layers: list[nn.Module] = [
        PerImageStandardise(),
        StandardisedConv2d(channels, width, 3, stride=stride, padding=1),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
    ]
    rows, cols = ((height + 1) // 2, (columns + 1) // 2) if large else (height, columns)
    incoming = width
    for outgoing in (width, 2 * width):
        layers += [
            StandardisedConv2d(incoming, outgoing, 3, stride=2, padding=1),
            nn.GroupNorm(groups, outgoing),
            nn.ReLU(),
        ]
        rows, cols, incoming = (rows + 1) // 2, (cols + 1) // 2, outgoing
    for _ in range(halvings(min(rows, cols), 2)):
        layers.append(nn.AvgPool2d(2))
        rows, cols = rows // 2, cols // 2
    layers.append(nn.Flatten())
    return Classifier(nn.Sequential(*layers), incoming * rows * cols, num_classes)


def build_mlp(image_shape: tuple[int, int, int], num_classes: int, *, hidden: int = 64) -> Classifier:
    """One tanh hidden layer over pixels; images larger than 16 pixels are average-pooled once first."""
    channels, height, columns = _check_shape(image_shape)
    layers: list[nn.Module] = [PerImageStandardise()]
    while min(height, columns) > 16:
        layers.append(nn.AvgPool2d(2))
        height, columns = height // 2, columns // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * columns, hidden), nn.Tanh()]
    return Classifier(nn.Sequential(*layers), hidden, num_classes)


def build_scatter_head(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    encoder: str = "scattering",
    encoder_seed: int = 0,
    dim: int = 256,
) -> Classifier:
    """A linear head on a fixed public encoder.

    Args:
        encoder: name known to ``mosaic_secure.models.encoders.build_encoder``.
        encoder_seed: seed of the encoder's fixed projection; the same for all who share the architecture.
        dim: number of features.
    """
    from mosaic_secure.models.encoders import build_encoder

    try:
        trunk = build_encoder(encoder, image_shape, encoder_seed, dim)
    except ValueError as error:
        raise UserError(f"scatter_head: {error}") from error
    return Classifier(trunk, int(trunk.dim), num_classes, frozen_trunk=True)


def trainable_part(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """Split off a frozen trunk, so that its features are computed once instead of at every step.

    Returns:
        ``(module, transform)``: train ``module`` on ``transform(images)``; ``transform`` is None when the
        whole model is trained on the images themselves. ``module`` shares its parameters with ``model``.
    """
    if isinstance(model, Classifier) and model.frozen_trunk:
        return model.head, model.trunk
    return model, None


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """Return the logits ``[N, K]`` of images ``[N, C, H, W]`` in evaluation mode, batch by batch."""
    training = model.training
    model.eval()
    try:
        return torch.cat([model(part) for part in images.split(batch_size)]) if len(images) else model(images)
    finally:
        model.train(training)
