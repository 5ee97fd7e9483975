"""A client's training: what weights it takes, what it gives back, and that its records decide no constant."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mosaic_secure.client import training
from mosaic_secure.config import load_config
from mosaic_secure.data.records import ClientData, DataInfo
from mosaic_secure.plan import RunPlan
from mosaic_secure.release_requests import release_requests
from privacy.budget import plan_budget
from privacy.dpsgd import DPSGDPlan
from privacy.randomness import NoiseSource

SHAPE, CLASSES = (1, 8, 8), 3
CONFIG = load_config("digits", {"privacy.epsilon": "inf"})


def model(architecture: str = "mlp") -> torch.nn.Module:
    return training.initial_classifier(CONFIG, architecture, SHAPE, CLASSES)


def source() -> NoiseSource:
    return NoiseSource(bytes(32), "test")


def plan(**changes) -> DPSGDPlan:
    values = {
        "noise_multiplier": 0.5,
        "sample_rate": 0.5,
        "steps": 3,
        "max_grad_norm": 1.0,
        "expected_batch_size": 10.0,
        "learning_rate": 0.2,
    }
    return DPSGDPlan(**(values | changes))


def records(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class c is a bright column c, under noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    images = 0.3 * rng.random((count, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, 2:6, 2 + label] += 0.7
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("architecture", ["mlp", "scatter_head"])
def test_weights_go_out_and_come_back_without_the_fixed_public_part(architecture):
    first, second = model(architecture), model(architecture)
    with torch.no_grad():
        for value in first.parameters():
            if value.requires_grad:
                value.add_(1.0)
    sent = training.weights_of(first)
    assert {value.dtype for value in sent.values()} == {np.dtype(np.float32)}
    if architecture == "scatter_head":
        assert set(sent) == {"weight", "bias"}
    training.set_weights(second, sent)
    for name, value in training.weights_of(second).items():
        np.testing.assert_array_equal(value, sent[name])
    sent["weight" if architecture == "scatter_head" else "head.weight"][:] = (
        7  # a copy: the model keeps its own
    )
    assert float(first.head.weight.detach().max()) != 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda w: w | {"stranger": np.zeros(1, np.float32)},
        lambda w: {name: value for name, value in w.items() if name != "head.bias"},
        lambda w: w | {"head.bias": np.full(CLASSES, np.nan, np.float32)},
        lambda w: w | {"head.bias": np.full(CLASSES, np.inf, np.float32)},
        lambda w: w | {"head.bias": np.zeros(CLASSES + 1, np.float32)},
        lambda w: w | {"head.bias": np.zeros((), np.float32)},
        lambda w: {},
    ],
    ids=["foreign", "missing", "nan", "inf", "shape", "scalar", "empty"],
)
def test_weights_that_are_not_the_architectures_are_refused_and_change_nothing(spoil):
    network = model()
    before = training.weights_of(network)
    changed = {name: value + 1 for name, value in before.items()}
    with pytest.raises(ValueError, match="weights: "):
        training.set_weights(network, spoil(changed))
    for name, value in training.weights_of(network).items():
        np.testing.assert_array_equal(value, before[name])


def test_clients_of_one_architecture_start_alike_and_another_seed_starts_elsewhere():
    first, second = training.weights_of(model()), training.weights_of(model())
    other = CONFIG.model_copy(update={"seed": 1})
    third = training.weights_of(training.initial_classifier(other, "mlp", SHAPE, CLASSES))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("architecture", ["mlp", "scatter_head"])
def test_training_learns_without_noise(architecture):
    network, (images, labels) = model(architecture), records(60)
    free = plan(noise_multiplier=0.0, steps=40, expected_batch_size=30.0, learning_rate=1.0)
    training.train_classifier(network, images, labels, free, source())
    assert float((network(images).argmax(1) == labels).double().mean()) > 0.95


@pytest.mark.parametrize("architecture", ["mlp", "scatter_head"])
@pytest.mark.parametrize("augmentations", [1, 3])
def test_the_same_secret_gives_the_same_weights_and_torchs_own_stream_gives_none(architecture, augmentations):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = model(architecture)
        training.train_classifier(network, *records(20), plan(), source(), augmentations)
        found.append(training.weights_of(network))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


@pytest.mark.parametrize("architecture", ["mlp", "scatter_head"])
@pytest.mark.parametrize("augmentations", [1, 2])
def test_a_client_without_records_sends_noise_of_the_same_form(architecture, augmentations):
    network = model(architecture)
    before = training.weights_of(network)
    training.train_classifier(network, *records(0), plan(), source(), augmentations)
    after = training.weights_of(network)
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
    assert all(
        np.isfinite(value).all() and not np.array_equal(value, before[n]) for n, value in after.items()
    )


def test_views_of_a_record_still_make_one_clipped_row():
    """One record in full: without noise, a step is at most clip * learning rate / expected batch long."""
    images, labels = records(1)
    bounded = plan(
        noise_multiplier=0.0, sample_rate=1.0, steps=1, max_grad_norm=0.01, expected_batch_size=1.0
    )
    network = model()
    before = training.weights_of(network)
    training.train_classifier(network, images, labels, bounded, source(), augmentations=6)
    after = training.weights_of(network)
    moved = math.sqrt(sum(float(((after[n] - before[n]) ** 2).sum()) for n in before))
    assert moved <= 0.01 * bounded.learning_rate * (1 + 1e-4)
    assert moved > 0.009 * bounded.learning_rate


def test_views_are_shifts_of_their_own_record(monkeypatch):
    seen = {}

    def spy(*args, augment, **_):
        seen["augment"] = augment

    monkeypatch.setattr(training, "train_private", spy)
    images, labels = records(6)
    training.train_classifier(model(), images, labels, plan(), source(), augmentations=5)
    augment = seen["augment"]
    views, repeated = augment((images, labels), torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[2] = 9.0
    other, _ = augment((changed, labels), torch.Generator().manual_seed(0))
    assert views.shape == (6, 5, *SHAPE) and torch.equal(repeated, labels[:, None].expand(6, 5))
    assert torch.equal(views[:, 0], images)
    assert not torch.equal(views[:, 1:], images[:, None].expand(-1, 4, -1, -1, -1))
    assert (views == other).flatten(1).all(1).tolist() == [True, True, False, True, True, True]
    training.train_classifier(model("scatter_head"), images, labels, plan(), source(), augmentations=5)
    assert seen["augment"] is None


def local_session(count: int, declared: int = 50) -> SimpleNamespace:
    settings = load_config(
        "digits",
        {
            "privacy.epsilon": "inf",
            "generator.steps": 2,
            "generator.warmup": 1,
            "generator.batch": 8,
            "generator.latent_dim": 4,
        },
    )
    budget = plan_budget(math.inf, settings.privacy.delta, release_requests(settings))
    made = RunPlan(settings, budget, DataInfo("test", SHAPE, tuple("abc"), "public"))
    images, labels = records(count)
    data = ClientData(images.numpy(), labels.numpy(), declared, CLASSES)
    return SimpleNamespace(config=settings, plan=made, data=data)


@pytest.mark.parametrize("count", [0, 30])
def test_a_generator_has_the_form_of_the_plan_whatever_the_records(count):
    session = local_session(count)
    made = training.train_local_generator(session, model(), {}, None, source())
    made.eval()
    images = made(torch.randn(5, 4), torch.arange(5) % CLASSES).detach()
    assert images.shape == (5, *SHAPE)
    assert float(images.min()) >= 0 and float(images.max()) <= 1


def test_the_discriminators_divisor_is_the_declared_number_of_records(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train_generator", lambda *args, **_: seen.append(args[5]))
    for count in (5, 40):
        training.train_local_generator(local_session(count, declared=70), model(), {}, None, source())
    rate = seen[0].sample_rate
    assert seen[0] == seen[1] and seen[0].expected_batch_size == 70 * rate


def test_the_classifier_in_the_generators_loss_is_frozen_and_in_evaluation_mode(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train_generator", lambda *args, **_: seen.append(args[2]))
    network = model().train()
    training.train_local_generator(local_session(5), network, {}, None, source())
    assert not seen[0].training and not any(p.requires_grad for p in seen[0].parameters())
