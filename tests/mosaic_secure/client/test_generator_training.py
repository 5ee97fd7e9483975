"""A generator's updates are post-processing of the private discriminator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mosaic_secure.client.generator_training import (
    GeneratorPlan,
    GeneratorWeights,
    MomentAnchor,
    train_generator,
)
from mosaic_secure.errors import UserError
from mosaic_secure.models.registry import build_classifier, build_discriminator, build_generator
from privacy.dpsgd import DPSGDPlan
from privacy.errors import UnsafeModelError
from privacy.randomness import NoiseSource

SHAPE, CLASSES = (1, 8, 8), 3


def plan(**changes) -> DPSGDPlan:
    values = {
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "steps": 4,
        "max_grad_norm": 1.0,
        "expected_batch_size": 10.0,
        "learning_rate": 2e-3,
        "optimizer": "adam",
        "momentum": 0.5,
    }
    return DPSGDPlan(**(values | changes))


def records(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=draws), torch.arange(count) % CLASSES


class Recorder(nn.Module):
    """A discriminator that notes the labels of each batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_discriminator("dcgan", SHAPE, CLASSES, seed=1)
        self.calls: list[list[int]] = []

    def forward(self, images, labels):
        if len(images) > 1:  # a single image is a real record under per-record gradients
            self.calls.append(labels.tolist())
        return self.inner(images, labels)


def train(images, labels, the_plan=None, *, label="x", discriminator=None, seed=0, **options):
    generator = build_generator("dcgan", SHAPE, CLASSES, seed=seed, latent_dim=8, width=4)
    discriminator = discriminator or build_discriminator("dcgan", SHAPE, CLASSES, seed=1)
    classifier = options.pop("classifier", build_classifier("mlp", SHAPE, CLASSES, seed=2))
    options.setdefault("settings", GeneratorPlan(batch_size=12))
    source = NoiseSource(bytes(32), label)
    train_generator(
        generator, discriminator, classifier, images, labels, the_plan or plan(), source, **options
    )
    return generator


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_records_that_are_never_sampled_leave_no_trace():
    """Nobody is ever sampled: other records, and other numbers of them, give the very same generator."""
    nobody = plan(sample_rate=1e-12)
    first = train(*records(20, seed=1), nobody)
    second = train(*records(35, seed=2), nobody)
    assert torch.equal(weights(first), weights(second))


def test_records_reach_the_generator_through_the_discriminator_only():
    """A discriminator that (almost) stands still passes nothing on: then the records do not matter."""
    still = plan(learning_rate=1e-30, optimizer="sgd", momentum=0.0)
    first = train(*records(20, seed=1), still)
    second = train(*records(20, seed=2), still)
    assert torch.equal(weights(first), weights(second))
    moving = [train(*records(20, seed=seed), plan(noise_multiplier=0.0)) for seed in (1, 2)]
    assert not torch.equal(weights(moving[0]), weights(moving[1]))


@pytest.mark.parametrize("count", [0, 1, 40])
def test_fakes_are_as_many_as_planned_and_labelled_by_the_prior(count):
    images, _ = records(count)
    skewed = torch.zeros(count, dtype=torch.int64)
    recorder = Recorder()
    train(images, skewed, discriminator=recorder, label_prior=torch.tensor([0.5, 0.25, 0.25]))
    assert len(recorder.calls) == 2 * 4  # for the discriminator's and for the generator's step
    for asked in recorder.calls:
        assert len(asked) == 12
        assert [asked.count(label) for label in range(CLASSES)] == [6, 3, 3]


def test_noised_counts_may_be_negative_or_all_zero():
    for prior in ([-3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]):
        recorder = Recorder()
        train(*records(5), discriminator=recorder, label_prior=torch.tensor(prior))
        assert all(len(asked) == 12 for asked in recorder.calls)
    with pytest.raises(UserError, match="label prior"):
        train(*records(5), label_prior=torch.ones(CLASSES + 1))


def test_the_classifier_is_used_in_evaluation_mode_and_not_changed():
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_classifier("mlp", SHAPE, CLASSES, seed=2)
            self.modes: set[bool] = set()

        def forward(self, images):
            self.modes.add(self.training)
            return self.inner(images)

    classifier = Watched().train()
    before = weights(classifier)
    train(*records(10), classifier=classifier)
    assert classifier.modes == {False}
    assert classifier.training
    assert torch.equal(weights(classifier), before)
    assert all(value.grad is None for value in classifier.parameters())


def test_same_source_same_generator_and_global_state_untouched():
    state = torch.get_rng_state()
    first, second = train(*records(20)), train(*records(20))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(train(*records(20), label="y")))


@pytest.mark.parametrize("which", ["discriminator", "classifier"])
def test_networks_that_mix_records_are_refused(which):
    if which == "discriminator":
        network = Recorder()
        network.inner.body.append(nn.BatchNorm1d(4))
    else:
        network = build_classifier("mlp", SHAPE, CLASSES, seed=0)
        network.trunk.append(nn.BatchNorm1d(4))
    with pytest.raises(UnsafeModelError):
        train(*records(5), **{which: network})


def test_an_anchor_pulls_the_fakes_to_released_means():
    target = torch.zeros(CLASSES, 64)
    target[0, :32], target[1, 32:], target[2] = 1.0, 1.0, 0.5
    anchor = MomentAnchor(lambda images: images, target)
    only_anchor = GeneratorWeights(adversarial=0.0, diversity=0.0, entropy=0.0, label=0.0, anchor=1.0)
    settings = GeneratorPlan(batch_size=30, warmup=150, learning_rate=1e-2, weights=only_anchor)
    generator = train(*records(0), plan(steps=1), settings=settings, anchor=anchor, classifier=None)
    latents = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % CLASSES
    with torch.no_grad():
        fakes = generator(latents, labels).flatten(1)
    means = torch.stack([fakes[labels == label].mean(0) for label in range(CLASSES)])
    assert (means - target).abs().mean() < 0.1


def test_the_anchor_s_distance_is_unbiased_and_rewards_spread_only_as_released():
    """Batches drawn from the released moments average to the minimum; constant fakes do not win."""
    draws = torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([0.4, 0.7]), torch.tensor([0.1, 0.2])
    second = torch.outer(mean, mean) + torch.diag(spread.square())
    anchor = MomentAnchor(lambda x: x, mean[None], second[None], second_weight=3.0)
    labels = torch.zeros(8, dtype=torch.int64)
    true = [anchor.distance(mean + spread * torch.randn(8, 2, generator=draws), labels) for _ in range(3000)]
    lowest = -(1.0 + 3.0)  # minus the squared norms, each relative to itself
    values = torch.stack(true)
    assert abs(float(values.mean() - lowest)) < 5 * float(values.std()) / math.sqrt(3000)
    assert anchor.distance(mean.repeat(8, 1), labels) > lowest + 1e-3


def test_an_untrusted_class_does_not_count():
    anchor = MomentAnchor(lambda x: x, torch.zeros(2, 64), class_weights=torch.tensor([1.0, 0.0]))
    images, labels = torch.rand(6, 64), torch.tensor([0, 0, 0, 1, 1, 1])
    moved = images.clone()
    moved[3:] += 5
    assert torch.equal(anchor.distance(images, labels), anchor.distance(moved, labels))


def test_a_single_fake_of_a_class_has_no_pair_and_no_weight():
    anchor = MomentAnchor(lambda x: x, torch.zeros(2, 4))
    assert anchor.distance(torch.ones(1, 4), torch.tensor([1])) == 0


def test_the_generator_s_average_replaces_the_last_iterate():
    last = train(*records(10), settings=GeneratorPlan(batch_size=12))
    mean = train(*records(10), settings=GeneratorPlan(batch_size=12, ema_decay=0.9))
    assert not torch.equal(weights(last), weights(mean))


@pytest.mark.parametrize(
    "bad", [{"learning_rate": 0.0}, {"batch_size": 1}, {"updates": 0}, {"warmup": -1}, {"ema_decay": 1.0}]
)
def test_impossible_settings_name_the_field(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        GeneratorPlan(**bad)
    with pytest.raises(UserError, match="diversity"):
        GeneratorWeights(diversity=-1.0)
