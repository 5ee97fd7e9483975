"""The head on centred codes, and the networks that a plan implies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mosaic_secure.config import load_config
from mosaic_secure.data.records import DataInfo
from mosaic_secure.models.classifiers import trainable_part
from mosaic_secure.models.encoders import centre_codes, encode
from mosaic_secure.models.global_model import build_global_model, build_prototype_model
from mosaic_secure.models.registry import build_classifier
from mosaic_secure.plan import RunPlan
from mosaic_secure.release_requests import release_requests
from privacy.budget import plan_budget

SHAPE, CLASSES = (1, 8, 8), 4


def build(**options) -> torch.nn.Module:
    sizes = {"dim": 16, "pixel_side": 4, "pixel_weight": 0.3, "encoder_seed": 2}
    return build_classifier("prototype_head", SHAPE, CLASSES, 0, **(sizes | options))


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def plan(**overrides) -> RunPlan:
    settings = load_config("digits", {"privacy.epsilon": "inf", "prototypes.dim": 16} | overrides)
    budget = plan_budget(math.inf, settings.privacy.delta, release_requests(settings))
    return RunPlan(settings, budget, DataInfo("test", SHAPE, tuple("abcd"), "public"))


@pytest.mark.parametrize("hidden", [0, 12])
def test_an_untrained_head_says_nothing(hidden):
    assert torch.equal(build(hidden=hidden)(images()), torch.zeros(5, CLASSES))


def test_the_trunk_gives_the_codes_that_the_clients_sum():
    made = plan()
    model = build_prototype_model(made)
    centre = np.random.default_rng(0).normal(size=made.code_dim) * 0.1
    model.trunk.centre.copy_(torch.from_numpy(centre).float())
    wanted = centre_codes(encode(made.encoder(), images().numpy()), centre)
    np.testing.assert_allclose(model.features(images()).numpy(), wanted, atol=1e-5)


def test_linear_weights_read_the_centred_codes():
    model = build()
    weights = torch.randn(CLASSES, model.trunk.dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.head.linear.weight.copy_(weights)
    assert torch.allclose(model(images()), model.features(images()) @ weights.T, atol=1e-5)


def test_only_the_head_is_trained_and_the_centre_travels_with_the_weights():
    model = build(hidden=6)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"head.{n}" for n, _ in model.head.named_parameters()
    }
    assert "trunk.centre" in model.state_dict()
    assert trainable_part(model) == (model.head, model.trunk)


def test_logits_of_a_record_do_not_depend_on_its_company():
    model = build(hidden=6)
    with torch.no_grad():
        for value in model.head.parameters():
            value.normal_(generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model(images())[2:3], model(images()[2:3]), atol=1e-6)


def test_plan_and_seed_fix_the_global_model():
    made = plan(**{"global_model.options": {"hidden": 8}})
    first, second = build_global_model(made), build_global_model(made)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    other = dataclasses.replace(made, config=made.config.model_copy(update={"seed": 1}))
    assert not torch.equal(first.head.residual[0].weight, build_global_model(other).head.residual[0].weight)
    assert first(images()).shape == (5, CLASSES)


@pytest.mark.parametrize("architecture", ["cnn", "mlp", "scatter_head"])
def test_the_global_model_may_have_any_architecture(architecture):
    model = build_global_model(plan(**{"global_model.architecture": architecture}))
    assert model(images()).shape == (5, CLASSES)


def test_the_prototype_expert_and_a_global_prototype_head_share_their_codes():
    made = plan()
    assert torch.equal(
        build_prototype_model(made).features(images()), build_global_model(made).features(images())
    )


def test_options_of_the_configuration_reach_the_global_model():
    made = plan(**{"global_model.architecture": "scatter_head", "global_model.options": {"dim": 8}})
    assert build_global_model(made).feature_dim == 8
