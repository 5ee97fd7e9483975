from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mosaic_secure.client.training import initial_classifier, weights_of
from mosaic_secure.config import load_config
from mosaic_secure.models.registry import build_generator
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.protocol.messages import LocalTrainingReply
from mosaic_secure.server.local_stage import ExpectedModels

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return build_plan(load_config("digits", {"privacy.epsilon": "inf"}))


@pytest.fixture(scope="module")
def reply(plan: RunPlan) -> LocalTrainingReply:
    classifier = initial_classifier(plan.config, "mlp", plan.image_shape, plan.num_classes)
    latent = {"latent_dim": plan.config.generator.latent_dim}
    generator = build_generator("dcgan", plan.image_shape, plan.num_classes, 1, **latent)
    state = {name: value.numpy() for name, value in generator.state_dict().items()}
    return LocalTrainingReply(code="ok", classifier=weights_of(classifier), generator=state)


def test_what_the_plan_asks_for_fits(plan: RunPlan, reply: LocalTrainingReply):
    expected = ExpectedModels(plan)
    assert expected.fits(reply, "mlp", last=True)
    assert not expected.fits(reply, "cnn", last=True)
    assert not expected.fits(reply, "mlp", last=False)  # a generator before its time
    assert expected.fits(replace(reply, generator={}), "mlp", last=False)
    assert not expected.fits(replace(reply, generator={}), "mlp", last=True)


def not_numbers(arrays: Arrays) -> Arrays:
    return {name: np.full_like(value, np.nan) for name, value in arrays.items()}


def one_infinity(arrays: Arrays) -> Arrays:
    changed = {name: value.copy() for name, value in arrays.items()}
    next(iter(changed.values())).flat[0] = np.inf
    return changed


def other_shape(arrays: Arrays) -> Arrays:
    return {name: value[..., :-1] for name, value in arrays.items()}


def other_names(arrays: Arrays) -> Arrays:
    return {f"x.{name}": value for name, value in arrays.items()}


def one_more(arrays: Arrays) -> Arrays:
    return {**arrays, "more": np.zeros(3, np.float32)}


def other_type(arrays: Arrays) -> Arrays:
    return {name: value.astype(np.int8) for name, value in arrays.items()}


@pytest.mark.parametrize(
    "spoil", [not_numbers, one_infinity, other_shape, other_names, one_more, other_type, lambda _: {}]
)
@pytest.mark.parametrize("part", ["classifier", "generator"])
def test_weights_of_no_such_model_do_not_fit(plan, reply, spoil: Callable[[Arrays], Arrays], part: str):
    spoilt = replace(reply, **{part: spoil(getattr(reply, part))})
    assert not ExpectedModels(plan).fits(spoilt, "mlp", last=True)
