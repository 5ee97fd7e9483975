"""Class inversion: what picture does a model find most typical of a class?

What comes out is first of all what the class looks like, which any accurate model tells. Whether it shows
training records is for `attacks.inversion.judge` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Found", "Search", "frozen", "invert_classes", "invert_with_generator", "search_pixels"]

Classify = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] to logits [B, K], differentiable."""

Generate = Callable[[Tensor, Tensor], Tensor]
"""Latents [B, L] and labels [B] to images [B, C, H, W] in [0, 1], differentiable."""

CONTRAST = 2.0  # spread of the pixels of a picture before the sigmoid
_LEAST = 1e-6


@dataclass(frozen=True)
class Search:
    """How long and how hard to look.

    Attributes:
        steps: of Adam. learning_rate: of it.
        restarts: starts for each class, of which the surest is kept.
        smoothness: weight of the mean squared difference between neighbouring pixels.
        noise: deviation of the noise on pictures that a model is shown during a search in pixels, so that it
            is not content with the finest of textures.
        closeness: weight of the squared length of a latent beyond its expectation, for generators.
        views: shifted copies over which a start is judged in the end, so that none wins by a texture that
            only this model sees in one place.
        seed: of starts and shifts.
    """

    steps: int = 200
    learning_rate: float = 0.05
    restarts: int = 8
    smoothness: float = 20.0
    noise: float = 0.3
    closeness: float = 0.01
    views: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """Pictures by class.

    Attributes:
        images: float32 [K, C, H, W] in [0, 1]. classes: int64 [K].
        confidence: float32 [K], the model's mean probability of the class over shifted copies.
    """

    images: Tensor
    classes: Tensor
    confidence: Tensor


def invert_classes(
    classify: Classify, classes: Tensor, shape: tuple[int, int, int], search: Search | None = None
) -> Found:
    """Pixels for which a class stands out most from the next, smooth ones preferred.

    Fredrikson, Jha and Ristenpart, "Model inversion attacks that exploit confidence information" (CCS 2015),
    with Adam, several starts, and the distance between logits in place of the confidence, which saturates
    (Nguyen et al., "Re-thinking model inversion attacks against deep neural networks", CVPR 2023).

    Args:
        classify: the model under attack, differentiable.
        classes: int64 [K]. shape: of an image, (C, H, W).
    """
    search = search or Search()
    draws = torch.Generator().manual_seed(search.seed)
    wanted = classes.repeat_interleave(search.restarts)

    def miss(images: Tensor) -> Tensor:
        logits = classify(images + search.noise * torch.randn(images.shape, generator=draws))
        own = logits.gather(1, wanted[:, None])[:, 0]
        return logits.scatter(1, wanted[:, None], -torch.inf).amax(dim=1) - own

    images = search_pixels(miss, len(wanted), shape, search, draws)
    return _surest(classify, images, wanted, search, draws)


def search_pixels(
    miss: Callable[[Tensor], Tensor],
    count: int,
    shape: tuple[int, int, int],
    search: Search,
    draws: torch.Generator,
) -> Tensor:
    """Smooth images [count, C, H, W] in [0, 1] for which `miss`, images to numbers [count], is small.

    All have the same contrast: many models do not see it, and it would fade to nothing for smoothness.
    """
    pixels = (0.5 * torch.randn(count, *shape, generator=draws)).requires_grad_()

    def loss() -> Tensor:
        images = _at_full_contrast(pixels)
        rough = sum(images.diff(dim=side).square().mean(dim=(1, 2, 3)) for side in (2, 3))
        return (miss(images) + search.smoothness * rough).sum()

    _descend(pixels, loss, search)
    return _at_full_contrast(pixels.detach())


def invert_with_generator(
    classify: Classify,
    generate: Generate,
    latent_dim: int,
    classes: Tensor,
    search: Search | None = None,
) -> Found:
    """Latents whose pictures the model is surest about: only what the generator can draw is found.

    Zhang et al., "The secret revealer: generative model-inversion attacks" (CVPR 2020), with likely latents
    in place of a discriminator, which a run does not release, and starts judged over shifted copies (Struppek
    et al., "Plug and play attacks", ICML 2022).

    Args:
        classify: the model under attack. generate: a generator of the run, conditional on labels.
        latent_dim: L.
    """
    search = search or Search()
    draws = torch.Generator().manual_seed(search.seed)
    wanted = classes.repeat_interleave(search.restarts)
    latents = torch.randn(len(wanted), latent_dim, generator=draws).requires_grad_()

    def loss() -> Tensor:
        far = (latents.square().sum(dim=1) - latent_dim).clamp(min=0).sum()
        sure = F.cross_entropy(classify(generate(latents, wanted)), wanted, reduction="sum")
        return sure + search.closeness * far

    _descend(latents, loss, search)
    with torch.no_grad():
        images = generate(latents, wanted).clamp(0, 1)
    return _surest(classify, images, wanted, search, draws)


def frozen(model: nn.Module) -> Classify:
    """A network in evaluation mode, whose own parameters get no gradient."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _at_full_contrast(pixels: Tensor) -> Tensor:
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    spread = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).add(_LEAST).sqrt()
    return (mean + CONTRAST * (pixels - mean) / spread).sigmoid()


def _descend(unknown: Tensor, loss: Callable[[], Tensor], search: Search) -> None:
    optimizer = torch.optim.Adam([unknown], lr=search.learning_rate)
    for _ in range(search.steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def _surest(
    classify: Classify, images: Tensor, wanted: Tensor, search: Search, draws: torch.Generator
) -> Found:
    """Of each class's starts the one with the highest mean probability over shifted copies."""
    totals = torch.zeros(len(images))
    with torch.no_grad():
        for view in range(search.views):
            down, right = (0, 0) if view == 0 else torch.randint(-2, 3, (2,), generator=draws).tolist()
            moved = torch.roll(images, (down, right), dims=(2, 3))
            totals += classify(moved).softmax(dim=1).gather(1, wanted[:, None])[:, 0]
    confidence = (totals / search.views).view(-1, search.restarts)
    best = confidence.argmax(dim=1)
    rows = torch.arange(len(best)) * search.restarts + best
    return Found(images[rows], wanted[rows], confidence.max(dim=1).values)
