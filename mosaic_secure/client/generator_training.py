"""A client's generator, trained against a private discriminator.

Every gradient that touches a real record goes through DP-SGD of the discriminator. The fakes it is compared
with, the terms of a DP-trained classifier and the released moments depend on records only through DP outputs,
so the generator is post-processing of the discriminator's mechanism: it costs nothing further, however often
it is updated. How many fakes there are and which labels they have come from the plan, never from real data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mosaic_secure.errors import UserError
from privacy.dpsgd import DPSGDPlan, train_private
from privacy.randomness import NoiseSource
from privacy.validation import validate


@dataclass(frozen=True)
class GeneratorWeights:
    """Weights of the generator's loss terms; 0 switches a term off.

    Args:
        adversarial: non-saturating loss against the discriminator.
        diversity: divergence of the mean class prediction over the fakes from the labels asked for (the
            method's negative entropy of the mean prediction, when all labels are asked for equally often).
        entropy: mean entropy of the class prediction of each fake.
        label: cross-entropy of the class prediction against the label asked for.
        anchor: distance of the fakes' moments from released ones.
    """

    adversarial: float = 1.0
    diversity: float = 0.1
    entropy: float = 0.0
    label: float = 0.1
    anchor: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise UserError(f"generator weight {name} is {value}: expected a finite number >= 0")


@dataclass(frozen=True)
class GeneratorPlan:
    """How the generator is updated; all of it post-processing.

    Args:
        learning_rate: of Adam.
        momentum: first beta of Adam.
        batch_size: number of fakes in each batch.
        updates: generator updates after each discriminator step.
        warmup: updates before the first discriminator step, without the adversarial term.
        ema_decay: in [0, 1); above 0, the generator ends as the running average of its iterates.
        weights: of the loss terms.
    """

    learning_rate: float = 5e-3
    momentum: float = 0.5
    batch_size: int = 64
    updates: int = 1
    warmup: int = 0
    ema_decay: float = 0.0
    weights: GeneratorWeights = field(default_factory=GeneratorWeights)

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "finite and > 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("updates", self.updates >= 1, "at least 1"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
        ):
            if not holds:
                raise UserError(f"generator {name} is {getattr(self, name)}: expected {expected}")


@dataclass(frozen=True)
class MomentAnchor:
    """Released moments of a description of images, by class, for fakes to match.

    Args:
        describe: maps images ``[B, C, H, W]`` to descriptions ``[B, D]``, differentiably.
        class_means: ``[K, D]``, means of the descriptions by class.
        class_seconds: ``[K, D, D]``, uncentred second moments by class, or None.
        class_weights: ``[K]``, how far each class's moments are trusted (0 for a class that was not seen).
        second_weight: weight of the second moments beside the means.
    """

    describe: Callable[[Tensor], Tensor]
    class_means: Tensor
    class_seconds: Tensor | None = None
    class_weights: Tensor | None = None
    second_weight: float = 1.0

    def distance(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar: the squared distance of the fakes' moments from the anchor's, up to a constant.

        Each moment's distance is relative to the mean squared norm of that moment, so that one weight suits
        images of any size.

        Pairs of different fakes estimate the squared moments, so that the estimate is unbiased and does not
        favour fakes that are all alike, as the distance of the batch's own means would.
        """
        described = self.describe(images).flatten(1)
        weights = self.class_weights
        trust = described.new_ones(len(labels)) if weights is None else weights.to(described)[labels]
        pairs = (labels[:, None] == labels[None, :]).to(described.dtype)
        pairs = pairs - torch.eye(len(labels), device=labels.device, dtype=described.dtype)
        pairs = pairs / pairs.sum(1, keepdim=True).clamp(min=1.0)
        paired = (pairs.sum(1) > 0).to(described.dtype) * trust
        gram = described @ described.T
        means = self.class_means.flatten(1).to(described)
        gap = ((pairs * gram).sum(1) - 2 * (described * means[labels]).sum(1)) / _typical_square(means)
        if self.class_seconds is not None and self.second_weight > 0:
            seconds = self.class_seconds.to(described)
            quadratic = torch.stack([((described @ second) * described).sum(1) for second in seconds], dim=1)
            chosen = quadratic.gather(1, labels[:, None]).squeeze(1)
            second_gap = (pairs * gram.square()).sum(1) - 2 * chosen
            gap = gap + self.second_weight * second_gap / _typical_square(seconds)
        return (paired * gap).sum() / len(labels)


def train_generator(
    generator: nn.Module,
    discriminator: nn.Module,
    classifier: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    plan: DPSGDPlan,
    noise: NoiseSource,
    *,
    settings: GeneratorPlan | None = None,
    label_prior: Tensor | None = None,
    anchor: MomentAnchor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train a generator in place; discriminator and generator together are one DP-SGD release under ``plan``.

    Args:
        generator: ``forward(latents, labels) -> images``, with ``latent_dim`` and ``num_classes``.
        discriminator: ``forward(images, labels) -> logits``; trained by DP-SGD. It may leave the client.
        classifier: a DP-trained classifier of this very composition; used in evaluation mode and not changed.
            None switches its terms off.
        images: the client's records ``[N, C, H, W]`` in [0, 1]; N may be 0.
        labels: ``[N]``.
        plan: of the discriminator.
        noise: of this release; latents and fake labels come from children of it.
        settings: of the generator.
        label_prior: ``[K]``, how often each label is asked for: uniform when None, else from released counts,
            negative ones taken as 0.
        anchor: released moments to match.
        on_step: called with the step's number after both networks were updated.

    Raises:
        UnsafeModelError: a network mixes records.
        UserError: the prior does not fit the classes.
    """
    settings = settings or GeneratorPlan()
    for network in (generator, discriminator, *([classifier] if classifier is not None else [])):
        validate(network)
    fakes = _FakeSource(generator, settings.batch_size, label_prior, noise.child("fakes"))
    trainer = _GeneratorUpdates(generator, discriminator, classifier, fakes, settings, anchor)
    trained = {name: value for name, value in discriminator.named_parameters() if value.requires_grad}

    def real_loss(
        params: dict[str, Tensor], buffers: dict[str, Tensor], image: Tensor, label: Tensor
    ) -> Tensor:
        logits = functional_call(discriminator, (params, buffers), (image[None], label[None]))
        return F.softplus(-logits).squeeze(0)

    def fake_gradient(step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            batch, asked = fakes.draw()
        loss = F.softplus(discriminator(batch, asked)).mean()
        found = torch.autograd.grad(loss, list(trained.values()))
        norm = torch.stack([gradient.square().sum() for gradient in found]).sum().sqrt()
        factor = (plan.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # no side outweighs the other
        return {name: gradient * factor for name, gradient in zip(trained, found, strict=True)}

    def after(step: int) -> None:
        for _ in range(settings.updates):
            trainer.update(adversarial=True)
        if on_step is not None:
            on_step(step)

    modes = [(network, network.training) for network in (generator, classifier) if network is not None]
    try:
        for network, _ in modes:
            network.eval()
        for _ in range(settings.warmup):
            trainer.update(adversarial=False)
        train_private(
            discriminator,
            real_loss,
            (images, labels),
            plan,
            noise.child("discriminator"),
            extra_gradient=fake_gradient,
            on_step=after,
        )
        trainer.finish()
    finally:
        for network, mode in modes:
            network.train(mode)


class _FakeSource:
    """Draws latents and labels for fakes: a fixed number, with labels from the prior."""

    def __init__(self, generator: nn.Module, batch: int, prior: Tensor | None, noise: NoiseSource) -> None:
        self._generator = generator
        self._batch = batch
        classes = generator.num_classes
        self.prior = _checked_prior(prior, classes)
        self._device = next(generator.parameters()).device
        self._draws = torch.Generator().manual_seed(int(noise.uniform(1)[0] * 2**52))

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return a batch of fakes ``[B, C, H, W]`` and the labels asked for ``[B]``."""
        latents = torch.randn(self._batch, self._generator.latent_dim, generator=self._draws)
        # one point in each of B equal slices of the unit interval, so that the shares follow the prior
        slices = torch.arange(self._batch) + torch.rand(self._batch, generator=self._draws)
        points = (slices / self._batch).to(self.prior.dtype)
        asked = torch.searchsorted(self.prior.cumsum(0), points, right=True)
        asked = asked.clamp(max=len(self.prior) - 1).to(self._device)
        return self._generator(latents.to(self._device), asked), asked


class _GeneratorUpdates:
    """The generator's optimiser and its loss."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        classifier: nn.Module | None,
        fakes: _FakeSource,
        settings: GeneratorPlan,
        anchor: MomentAnchor | None,
    ) -> None:
        self._discriminator = discriminator
        self._classifier = classifier
        self._fakes = fakes
        self._settings = settings
        self._anchor = anchor
        self._parameters = [value for value in generator.parameters() if value.requires_grad]
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=settings.learning_rate, betas=(settings.momentum, 0.999), foreach=True
        )
        self._mean = [value.detach().clone() for value in self._parameters] if settings.ema_decay else None
        self._made = 0

    def update(self, *, adversarial: bool) -> None:
        batch, asked = self._fakes.draw()
        loss = self._loss(batch, asked, adversarial)
        if loss is None:
            return
        for parameter, gradient in zip(
            self._parameters, torch.autograd.grad(loss, self._parameters), strict=True
        ):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._mean is not None:
            decay = min(self._settings.ema_decay, (1 + self._made) / (10 + self._made))
            torch._foreach_lerp_(self._mean, [value.detach() for value in self._parameters], 1 - decay)
        self._made += 1

    def finish(self) -> None:
        """Put the running average in place of the last iterate, if one was kept."""
        if self._mean is not None:
            with torch.no_grad():
                for parameter, mean in zip(self._parameters, self._mean, strict=True):
                    parameter.copy_(mean)

    def _loss(self, batch: Tensor, asked: Tensor, adversarial: bool) -> Tensor | None:
        weights = self._settings.weights
        terms = []
        if adversarial and weights.adversarial:
            terms.append(weights.adversarial * F.softplus(-self._discriminator(batch, asked)).mean())
        if self._anchor is not None and weights.anchor:
            terms.append(weights.anchor * self._anchor.distance(batch, asked))
        if self._classifier is not None and (weights.diversity or weights.entropy or weights.label):
            terms.append(self._classifier_terms(batch, asked))
        return torch.stack(terms).sum() if terms else None

    def _classifier_terms(self, batch: Tensor, asked: Tensor) -> Tensor:
        weights = self._settings.weights
        log_prediction = F.log_softmax(self._classifier(batch), dim=1)
        prediction = log_prediction.exp()
        mean = prediction.mean(0).clamp(min=1e-12)
        prior = self._fakes.prior.to(mean).clamp(min=1e-3)
        diversity = (mean * (mean / prior).log()).sum()
        entropy = -(prediction * log_prediction).sum(1).mean()
        label = F.nll_loss(log_prediction, asked)
        return weights.diversity * diversity + weights.entropy * entropy + weights.label * label


def _typical_square(moments: Tensor) -> Tensor:
    """The mean over classes of a moment's squared norm; 1 where all are zero."""
    square = moments.flatten(1).square().sum(1).mean()
    return torch.where(square > 0, square, torch.ones_like(square))


def _checked_prior(prior: Tensor | None, classes: int) -> Tensor:
    if prior is None:
        return torch.full((classes,), 1.0 / classes, dtype=torch.float64)
    weights = torch.as_tensor(prior, dtype=torch.float64).clamp(min=0)
    if weights.shape != (classes,) or not torch.isfinite(weights).all():
        raise UserError(f"label prior has shape {tuple(weights.shape)}: expected {classes} finite numbers")
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1.0 / classes)
