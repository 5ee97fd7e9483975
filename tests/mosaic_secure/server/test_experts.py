"""Experts are averages by class counts, and one batched call is as good as one by one."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from mosaic_secure.models.classifiers import trainable_part
from mosaic_secure.models.registry import build_classifier
from mosaic_secure.server import experts
from mosaic_secure.server.experts import Mixture, class_experts
from mosaic_secure.server.stored import Stored

SHAPE, CLASSES = (1, 8, 8), 3
CLIENTS = ("client-0", "client-4")
ARCHITECTURES = ["mlp", "cnn", "cnn_wide", "scatter_head"]


def network(architecture: str = "mlp", seed: int = 0) -> torch.nn.Module:
    options = {"encoder_seed": 5} if architecture == "scatter_head" else {}
    return build_classifier(architecture, SHAPE, CLASSES, seed, **options)


def weights(architecture: str, seed: int) -> dict[str, np.ndarray]:
    trained, _ = trainable_part(network(architecture, seed))
    return {name: value.detach().numpy().copy() for name, value in trained.named_parameters()}


def group(counts, architecture: str = "mlp", clients=CLIENTS, **options):
    trained = {client: weights(architecture, seed) for seed, client in enumerate(clients)}
    return class_experts(
        architecture, network(architecture, 9), clients, trained, np.array(counts), **options
    )


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def expected(shares: list[float]) -> dict[str, np.ndarray]:
    trained = [weights("mlp", seed) for seed in range(2)]
    return {n: shares[0] * trained[0][n] + shares[1] * trained[1][n] for n in trained[0]}


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ([[30.0, 0.0, 5.0], [10.0, 8.0, 5.0]], [[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]]),
        # Noise below zero is no record; a class that nobody has goes by the whole sizes (30 and 10).
        ([[30.0, -4.0, -1.0], [10.0, 0.0, -9.0]], [[0.75, 0.25], [0.75, 0.25], [0.75, 0.25]]),
        # Nobody seems to have anything: all alike.
        ([[-3.0, -4.0, -1.0], [-10.0, 0.0, -9.0]], [[0.5, 0.5]] * 3),
    ],
)
def test_the_expert_of_a_class_is_the_average_weighted_by_its_counts(counts, shares):
    made = group(counts)
    assert made.names == ("mlp/class-0", "mlp/class-1", "mlp/class-2")
    for c in range(CLASSES):
        for name, value in expected(shares[c]).items():
            np.testing.assert_allclose(made.expert(c)[name].numpy(), value, atol=1e-6)


def test_without_class_experts_a_group_is_averaged_by_size():
    made = group([[30.0, 20.0, -5.0], [10.0, 40.0, 100.0]], per_class=False)
    assert made.names == ("mlp/average",)
    for name, value in expected([0.25, 0.75]).items():
        np.testing.assert_allclose(made.expert(0)[name].numpy(), value, atol=1e-6)


def test_a_group_of_one_has_its_clients_own_model():
    made = group([[1.0, 2.0, 3.0]], clients=("client-3",))
    assert made.names == ("mlp/client-3",)
    for name, value in weights("mlp", 0).items():
        np.testing.assert_array_equal(made.expert(0)[name].numpy(), value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batched_answer_equals_the_experts_one_by_one(architecture):
    made = group([[30.0, 1.0, 5.0], [10.0, 8.0, 5.0]], architecture)
    answers = made.log_probabilities(images())
    assert answers.shape == (4, CLASSES, CLASSES)
    for index in range(CLASSES):
        alone = network(architecture, seed=20)
        trained, _ = trainable_part(alone)
        with torch.no_grad():
            for name, value in trained.named_parameters():
                value.copy_(made.expert(index)[name])
            wanted = alone.eval()(images()).log_softmax(-1)
        assert torch.allclose(answers[:, index], wanted, atol=1e-5)


def test_answers_do_not_depend_on_the_batch_or_on_the_templates_own_weights():
    made = group([[30.0, 1.0, 5.0], [10.0, 8.0, 5.0]])
    many = made.log_probabilities(images(600))
    assert torch.allclose(many[[0, 599]], made.log_probabilities(images(600)[[0, 599]]), atol=1e-6)
    with torch.no_grad():
        for value in made.template.parameters():
            value.fill_(3.0)
    assert torch.equal(many, made.log_probabilities(images(600)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_images_give_no_answers(architecture):
    made = group([[1.0, 1.0, 1.0]] * 2, architecture)
    assert made.log_probabilities(images(0)).shape == (0, 3, CLASSES)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("at_once", [1, 5000])
def test_mixing_tensor_by_tensor_gives_the_same_bits(monkeypatch, at_once: int, per_class: bool):
    counts = np.random.default_rng(0).uniform(-5, 50, (7, CLASSES))
    clients = tuple(f"client-{index}" for index in range(7))
    together = group(counts, "cnn", clients, per_class=per_class)
    monkeypatch.setattr(experts, "_MIXED_NUMBERS", at_once)
    apart = group(counts, "cnn", clients, per_class=per_class)
    assert list(apart.weights) == list(together.weights) and apart.names == together.names
    for name, value in together.weights.items():
        assert apart.weights[name].numpy().tobytes() == value.numpy().tobytes(), name


def test_of_many_clients_few_are_in_memory_while_they_are_mixed():
    class Tracked(dict):
        """A dictionary that can be watched."""

    made: list[weakref.ref[Tracked]] = []
    most: list[int] = []

    def read(client: str) -> Tracked:
        found = Tracked(weights("mlp", int(client)))
        made.append(weakref.ref(found))
        most.append(sum(one() is not None for one in made))
        return found

    clients = tuple(map(str, range(6)))
    stored = Stored(clients, read)
    found = class_experts("mlp", network(), clients, stored, np.ones((6, CLASSES)))
    assert len(most) >= 6 and max(most) <= 3  # the first, for its shapes; the last one; the next one
    wanted = np.mean([weights("mlp", seed)["head.weight"] for seed in range(6)], axis=0)
    np.testing.assert_allclose(found.expert(0)["head.weight"].numpy(), wanted, atol=1e-6)


def test_an_expert_whose_answer_is_no_number_knows_nothing():
    made = group([[30.0, 1.0, 5.0], [10.0, 8.0, 5.0]])
    sane = made.log_probabilities(images())
    name, weight = next(iter(made.weights.items()))
    made.weights[name][1] = float("nan")
    answers = made.log_probabilities(images())
    assert torch.equal(answers[:, [0, 2]], sane[:, [0, 2]])
    assert torch.allclose(answers[:, 1].exp(), torch.full((4, CLASSES), 1 / CLASSES))


def test_a_mixture_keeps_the_order_of_its_groups():
    first = group([[30.0, 1.0, 5.0], [10.0, 8.0, 5.0]])
    second = group([[1.0, 2.0, 3.0]], "scatter_head", clients=("client-1",))
    mixture = Mixture((first, second))
    assert mixture.names == (*first.names, "scatter_head/client-1")
    answers = mixture.log_probabilities(images())
    assert torch.equal(answers[:, :3], first.log_probabilities(images()))
    assert torch.equal(answers[:, 3:], second.log_probabilities(images()))
    assert torch.allclose(answers.exp().sum(-1), torch.ones(4, 4), atol=1e-5)
