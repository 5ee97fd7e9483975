"""Networks of torchvision, made fit for small images and for per-record gradients.

Batch normalisation becomes group normalisation, in-place operations become out-of-place ones, and the stem no
longer shrinks the image by four. The weights are random: no pre-trained ones are loaded.
"""

from __future__ import annotations

import torchvision.models
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from mosaic_secure.errors import UserError
from mosaic_secure.models.classifiers import Classifier, PerImageStandardise
from privacy.validation import make_safe


class _SafeBlock(nn.Module):
    """A residual block whose shortcut is added out of place, as per-record gradients need it."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = block.conv1, block.bn1, block.relu
        self.conv2, self.bn2, self.downsample = block.conv2, block.bn2, block.downsample

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        return self.relu(self.bn2(self.conv2(hidden)) + shortcut)


def build(name: str, image_shape: tuple[int, int, int], num_classes: int, **options: object) -> Classifier:
    """Build ``resnet18`` or ``mobilenet_v3_small`` as a :class:`Classifier`.

    Args:
        image_shape: ``(channels, height, width)``, sides from 8 to 64.
        options: ``width`` (a fraction of the usual number of channels; mobilenet_v3_small only).

    Raises:
        UserError: unknown network or option, or an image too small.
    """
    channels, height, columns = image_shape
    if channels < 1 or min(height, columns) < 8:
        raise UserError(f"image shape {image_shape}: expected (channels >= 1, height >= 8, width >= 8)")
    builders = {"resnet18": _resnet18, "mobilenet_v3_small": _mobilenet_v3_small}
    if name not in builders:
        raise UserError(f"torchvision network {name!r}: expected one of {', '.join(builders)}")
    known = {"mobilenet_v3_small": {"width"}}.get(name, set())
    for option in options:
        if option not in known:
            raise UserError(f"option {option!r} of {name}: expected one of {', '.join(known) or '(none)'}")
    body, features = builders[name](channels, **options)
    return Classifier(
        nn.Sequential(PerImageStandardise(), make_safe(body), nn.Flatten()), features, num_classes
    )


def _resnet18(channels: int) -> tuple[nn.Module, int]:
    net = torchvision.models.resnet18(weights=None)
    stages = [
        nn.Sequential(*(_SafeBlock(block) for block in stage))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4)
    ]
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(stem, net.bn1, net.relu, *stages, nn.AdaptiveAvgPool2d(1)), 512


def _mobilenet_v3_small(channels: int, *, width: float = 1.0) -> tuple[nn.Module, int]:
    if not 0.1 <= width <= 2.0:
        raise UserError(f"width {width}: expected a fraction from 0.1 to 2")
    net = torchvision.models.mobilenet_v3_small(weights=None, width_mult=width)
    first = net.features[0][0]
    stem = nn.Conv2d(channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    net.features[0][0] = stem
    features = net.features[-1].out_channels
    return nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1)), features
