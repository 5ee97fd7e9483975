"""Every network by name: shapes, seeds, one record's output from that record alone, state round trip."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

from mosaic_secure.errors import UserError
from mosaic_secure.models.classifiers import predict_logits, trainable_part
from mosaic_secure.models.names import CLASSIFIERS
from mosaic_secure.models.registry import (
    build_classifier,
    build_discriminator,
    build_generator,
    classifier_names,
    generator_names,
    parameter_count,
)
from privacy.errors import UnsafeModelError
from privacy.validation import probe, validate

SMALL = ("cnn", "cnn_wide", "mlp", "scatter_head")
LARGE = ("resnet18", "mobilenet_v3_small")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_names():
    assert {*SMALL, *LARGE} <= set(classifier_names())
    assert classifier_names() == CLASSIFIERS
    assert generator_names() == ("dcgan",)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 64, 64)])
def test_small_classifiers_map_images_to_logits(name, shape):
    model = build_classifier(name, shape, 7, seed=0)
    logits = model(rand(3, *shape))
    assert logits.shape == (3, 7) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", LARGE)
def test_large_classifiers_map_images_to_logits(name):
    model = build_classifier(name, (3, 16, 16), 5, seed=0)
    assert model(rand(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_no_classifier_mixes_records_in_either_mode(name):
    model = build_classifier(name, (1, 8, 8), 10, seed=0)
    validate(model)
    probe(model.eval(), [rand(5, 1, 8, 8)])
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    probe(model.train(), [rand(5, 1, 8, 8)])


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_per_record_gradients_equal_gradients_one_by_one(name):
    model = build_classifier(name, (1, 8, 8), 4, seed=1).eval()
    images, labels = rand(3, 1, 8, 8), torch.tensor([0, 3, 1])

    def loss(params, image, label):
        logits = functional_call(model, params, (image[None],))
        return torch.nn.functional.cross_entropy(logits, label[None])

    params = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    rows = vmap(grad(loss), in_dims=(None, 0, 0))(params, images, labels)
    for index in range(3):
        model.zero_grad()
        torch.nn.functional.cross_entropy(
            model(images[index : index + 1]), labels[index : index + 1]
        ).backward()
        for key, value in model.named_parameters():
            if value.requires_grad:
                scale = max(1.0, float(value.grad.abs().max()))
                assert torch.allclose(rows[key][index], value.grad, atol=2e-4 * scale), key


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_a_seed_gives_the_same_network_and_leaves_the_global_state(name):
    state = torch.get_rng_state()
    first = build_classifier(name, (1, 8, 8), 10, seed=5).state_dict()
    torch.manual_seed(99)
    second = build_classifier(name, (1, 8, 8), 10, seed=5).state_dict()
    other = build_classifier(name, (1, 8, 8), 10, seed=6).state_dict()
    torch.set_rng_state(state)
    build_classifier(name, (1, 8, 8), 10, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", SMALL)
def test_state_goes_round(name):
    images = rand(4, 1, 8, 8)
    source, target = (build_classifier(name, (1, 8, 8), 10, seed=seed) for seed in (1, 2))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(images), target(images))


def test_a_scatter_head_sends_its_head_only_and_trains_on_features():
    model = build_classifier("scatter_head", (1, 8, 8), 10, seed=0)
    assert set(model.state_dict()) == {"head.weight", "head.bias"}
    assert parameter_count(model) == sum(value.numel() for value in model.state_dict().values())
    part, transform = trainable_part(model)
    images = rand(3, 1, 8, 8)
    assert torch.allclose(part(transform(images)), model(images))
    assert trainable_part(build_classifier("mlp", (1, 8, 8), 10, seed=0))[1] is None


def test_sizes_suit_per_record_gradients():
    for shape in SHAPES:
        assert 20_000 <= parameter_count(build_classifier("cnn", shape, 10, seed=0)) <= 60_000
        assert parameter_count(build_classifier("cnn_wide", shape, 10, seed=0)) <= 60_000


def test_options_reach_the_architecture():
    narrow = build_classifier("cnn", (1, 8, 8), 10, seed=0, width=8)
    assert parameter_count(narrow) < parameter_count(build_classifier("cnn", (1, 8, 8), 10, seed=0))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "message"),
    [
        ("cnnn", (1, 8, 8), 10, {}, "did you mean 'cnn'"),
        ("cnn", (1, 8, 8), 10, {"depth": 3}, "option 'depth' of cnn"),
        ("resnet18", (1, 8, 8), 10, {"depth": 3}, "option 'depth' of resnet18"),
        ("cnn", (1, 4, 8), 10, {}, "image shape"),
        ("scatter_head", (1, 8, 8), 10, {"encoder": "scatering"}, "scatter_head: encoder"),
        ("cnn", (1, 8, 8), 1, {}, "number of classes"),
        ("cnn_wide", (1, 8, 8), 10, {"width": 12}, "multiple of groups"),
    ],
)
def test_bad_requests_are_named(name, shape, classes, options, message):
    with pytest.raises(UserError, match=message):
        build_classifier(name, shape, classes, 0, **options)


def test_predictions_do_not_depend_on_the_batch_size():
    model = build_classifier("cnn_wide", (1, 8, 8), 10, seed=0).train()
    images = rand(7, 1, 8, 8)
    assert torch.allclose(predict_logits(model, images, 2), predict_logits(model, images, 100), atol=1e-5)
    assert model.training
    assert predict_logits(model, images[:0]).shape == (0, 10)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 9, 11), (3, 64, 64)])
def test_generator_and_discriminator_fit_each_other(shape):
    generator = build_generator("dcgan", shape, 6, seed=0)
    discriminator = build_discriminator("dcgan", shape, 6, seed=0)
    latents = torch.randn(5, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    images = generator(latents, labels)
    assert images.shape == (5, *shape)
    assert images.min() >= 0 and images.max() <= 1
    assert discriminator(images, labels).shape == (5,)
    validate(generator)
    validate(discriminator)
    probe(lambda z: generator(z, labels), [latents])
    probe(lambda x: discriminator(x, labels), [images.detach()])


def test_labels_matter_to_generator_and_discriminator():
    generator = build_generator("dcgan", (1, 8, 8), 3, seed=0)
    discriminator = build_discriminator("dcgan", (1, 8, 8), 3, seed=0)
    latents, ones, twos = torch.zeros(1, generator.latent_dim), torch.tensor([1]), torch.tensor([2])
    image = generator(latents, ones)
    assert not torch.allclose(image, generator(latents, twos))
    assert not torch.allclose(discriminator(image, ones), discriminator(image, twos))


def test_the_validator_refuses_batch_norm_in_a_classifier():
    model = build_classifier("cnn", (1, 8, 8), 10, seed=0)
    model.trunk.append(torch.nn.BatchNorm1d(64))
    with pytest.raises(UnsafeModelError):
        validate(model)
