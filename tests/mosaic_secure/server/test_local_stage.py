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
from mosaic_secure.server.inspection import ExpectedModels

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


MLP, CNN = 1, 0  # positions of clients, by what they train


def fits(plan: RunPlan, reply: LocalTrainingReply, index: int, *, last: bool) -> bool:
    fault = ExpectedModels(plan).local_fault(reply, index, None, last=last)
    assert fault in (None, "malformed")
    return fault is None


def test_what_the_plan_asks_for_fits(plan: RunPlan, reply: LocalTrainingReply):
    assert fits(plan, reply, MLP, last=True)
    assert not fits(plan, reply, CNN, last=True)
    assert not fits(plan, reply, MLP, last=False)  # a generator before its time
    assert fits(plan, replace(reply, generator={}), MLP, last=False)
    assert not fits(plan, replace(reply, generator={}), MLP, last=True)


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
    assert not fits(plan, spoilt, MLP, last=True)
