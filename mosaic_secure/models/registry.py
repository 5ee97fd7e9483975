"""Networks by name, built from a seed.

The same name, image shape, number of classes, options and seed give the same parameters on every machine,
and building one leaves torch's global random state untouched.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping

from torch import nn

from mosaic_secure.errors import UserError
from mosaic_secure.models import classifiers
from mosaic_secure.models.prototype_head import build_prototype_head
from mosaic_secure.models.seeding import build_seeded

ImageShape = tuple[int, int, int]


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def build(image_shape: ImageShape, num_classes: int, **options: object) -> nn.Module:
        from mosaic_secure.models import torchvision_nets

        return torchvision_nets.build(name, image_shape, num_classes, **options)

    return build


def _classifier_builders() -> Mapping[str, Callable[..., nn.Module]]:
    return {
        "cnn": classifiers.build_cnn,
        "cnn_wide": classifiers.build_cnn_wide,
        "mlp": classifiers.build_mlp,
        "scatter_head": classifiers.build_scatter_head,
        "prototype_head": build_prototype_head,
        "resnet18": _torchvision("resnet18"),
        "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    }


def _generator_builders() -> Mapping[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]]:
    from mosaic_secure.models import generators

    return {"dcgan": (generators.build_dcgan_generator, generators.build_dcgan_discriminator)}


def _sampler_builders() -> Mapping[str, Callable[..., nn.Module]]:
    """Generators that are filled in from released moments and never trained, so without a discriminator."""
    from mosaic_secure.models.class_gaussians import build_class_gaussians

    return {"class_gaussians": build_class_gaussians}


def classifier_names() -> tuple[str, ...]:
    """Return the names that :func:`build_classifier` knows."""
    return tuple(_classifier_builders())


def generator_names() -> tuple[str, ...]:
    """Return the names of generators that are trained: :func:`build_generator` also knows samplers."""
    return tuple(_generator_builders())


def build_classifier(
    name: str, image_shape: ImageShape, num_classes: int, seed: int, **options: object
) -> nn.Module:
    """Build a classifier that maps images ``[B, C, H, W]`` in [0, 1] to logits ``[B, num_classes]``.

    Args:
        name: one of :func:`classifier_names`.
        image_shape: ``(channels, height, width)``; height and width from 8 to 64.
        num_classes: at least 2.
        seed: seed of the initial parameters.
        options: keyword options of the architecture, such as ``width``.

    Raises:
        UserError: unknown name or option, or an impossible shape.
    """
    _check_classes(num_classes)
    builder = _pick(name, _classifier_builders(), "classifier")
    return _build(builder, name, image_shape, num_classes, seed, options)


def build_generator(
    name: str, image_shape: ImageShape, num_classes: int, seed: int, **options: object
) -> nn.Module:
    """Build a generator: ``forward(z [B, latent_dim], labels [B]) -> images [B, C, H, W]`` in [0, 1].

    Raises:
        UserError: unknown name or option, or an impossible shape.
    """
    _check_classes(num_classes)
    trained = {known: pair[0] for known, pair in _generator_builders().items()}
    builder = _pick(name, trained | _sampler_builders(), "generator")
    return _build(builder, name, image_shape, num_classes, seed, options)


def build_discriminator(
    name: str, image_shape: ImageShape, num_classes: int, seed: int, **options: object
) -> nn.Module:
    """Build the discriminator of a generator: ``forward(images [B, C, H, W], labels [B]) -> logits [B]``.

    Raises:
        UserError: unknown name or option, or an impossible shape.
    """
    _check_classes(num_classes)
    builder = _pick(name, _generator_builders(), "generator")[1]
    return _build(builder, name, image_shape, num_classes, seed, options)


def parameter_count(module: nn.Module) -> int:
    """Return how many trainable numbers a network has."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise UserError(f"number of classes {num_classes}: expected at least 2")


def _pick(name: str, builders: Mapping[str, object], kind: str):
    if name in builders:
        return builders[name]
    close = difflib.get_close_matches(name, builders, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(f"{kind} architecture {name!r}: expected one of {', '.join(builders)}{hint}")


def _build(
    builder: Callable[..., nn.Module],
    name: str,
    image_shape: ImageShape,
    num_classes: int,
    seed: int,
    options: Mapping[str, object],
) -> nn.Module:
    parameters = inspect.signature(builder).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise UserError(f"option {option!r} of {name}: expected one of {', '.join(known)}")
    shape = tuple(int(side) for side in image_shape)
    return build_seeded(lambda: builder(shape, num_classes, **options), seed)
