"""Bounds on what clients send follow from the plan; no honest training passes them, and they are not idle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_secure.config import load_config
from mosaic_secure.data import declared_records
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.protocol.codec import content_bytes, encode
from mosaic_secure.protocol.messages import LocalTrainingReply, PrototypeReply
from mosaic_secure.server.inspection import (
    ExpectedModels,
    adam_reach,
    counts_fault,
    most_bytes,
    sgd_reach,
)
from privacy.dpsgd import DPSGDPlan, train_private
from privacy.randomness import NoiseSource


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return build_plan(load_config("digits", {"privacy.epsilon": 4.0}))


def dpsgd(**changes) -> DPSGDPlan:
    given = {
        "noise_multiplier": 0.0,
        "sample_rate": 1.0,
        "steps": 20,
        "max_grad_norm": 1.0,
        "expected_batch_size": 8.0,
        "learning_rate": 0.5,
        "momentum": 0.9,
    }
    return DPSGDPlan(**{**given, **changes})


def moved(training: DPSGDPlan, records: int, seed: int = 0) -> tuple[float, int]:
    """How far DP-SGD takes a network whose records all pull one way, and how many weights it has."""
    model = torch.nn.Linear(30, 10, bias=False)
    start = model.weight.detach().clone()

    def pull(params: dict, buffers: dict, record: torch.Tensor) -> torch.Tensor:
        return -100.0 * (params["weight"].sum() + 0.0 * record.sum())

    noise = NoiseSource(bytes([seed]) * 32, "test")
    train_private(model, pull, (torch.zeros(records, 1),), training, noise)
    return float((model.weight.detach() - start).norm()), start.numel()


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0}, {"noise_multiplier": 3.0}, {"ema_decay": 0.9}])
def test_records_that_all_pull_one_way_stay_within_reach(changes: dict):
    training = dpsgd(**changes)
    distance, numbers = moved(training, records=80)  # ten times as many as declared
    assert distance <= sgd_reach(training, numbers)
    if not changes:
        assert distance > 0.3 * sgd_reach(training, numbers)  # and the bound is not far away


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_stays_within_reach_and_fills_a_good_part_of_it(seed: int):
    """The 40 draws of noise of this seed are passed with p < 1e-15."""
    training = dpsgd(noise_multiplier=1000.0, steps=40, momentum=0.0)
    distance, numbers = moved(training, records=0, seed=seed)
    reach = sgd_reach(training, numbers)
    assert 0.3 * reach < distance <= reach


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-8, 1.0, -1.0, 5.0, 1e12]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.5, 0.9]),
)
def test_no_gradients_take_adam_out_of_its_reach(gradients: list[float], momentum: float):
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(momentum, 0.999), eps=1e-30)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    assert abs(float(weight.detach())) <= adam_reach(0.1, momentum, len(gradients)) * (1 + 1e-9)


def test_adams_reach_is_reached():
    """Small gradients, then one that outweighs them all: the bound of the last step is what it takes."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.0, 0.999), eps=1e-30)
    for gradient in [0.0] * 49 + [1.0]:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    last = adam_reach(1.0, 0.0, 50) - adam_reach(1.0, 0.0, 49)
    assert abs(float(weight.detach())) == pytest.approx(last, rel=1e-9)


def counts(plan: RunPlan, value: float) -> dict[str, np.ndarray]:
    return {"counts": np.full(plan.num_classes, value)}


def test_counts_with_the_noise_of_the_plan_pass_and_lies_do_not(plan: RunPlan):
    tail = 9 * plan.counts.own_std / plan.counts.grid
    for index, held in enumerate(declared_records(plan.config)):
        most = held + tail / math.sqrt(plan.num_classes)  # ten times the records, spread over ten classes
        for value in (0.0, -0.9 * tail, held / 10, 0.99 * most):
            assert counts_fault(counts(plan, value), plan, index) is None
        for value in (-tail - 2, 1.01 * most + 1, 1e30, -1e300):
            assert counts_fault(counts(plan, value), plan, index) == "implausible"
    drawn = [
        plan.counts.decode(
            plan.counts.release(np.zeros((0, 1)), np.zeros(0, int), NoiseSource(bytes(32), str(i)))
        )
        for i in range(200)
    ]
    assert all(counts_fault(found, plan, 0) is None for found in drawn)


def test_bounds_do_not_look_at_other_clients(plan: RunPlan):
    """What is said of a reply is said of it alone: judging another one first changes nothing."""
    expected = ExpectedModels(plan)
    good, bad = reply_of(plan, 1), reply_of(plan, 1, 1e30)
    for _ in range(2):
        assert expected.local_fault(good, 1, None, last=True) is None
        assert expected.local_fault(bad, 1, None, last=True) == "implausible"


def reply_of(plan: RunPlan, index: int, shift: float = 0.0) -> LocalTrainingReply:
    from mosaic_secure.server.inspection import _classifier, _generator

    classifier = _classifier(plan, plan.config.architecture_of(index))
    shifted = {name: (value + np.float32(shift)).astype(np.float32) for name, value in classifier.items()}
    return LocalTrainingReply(code="ok", classifier=shifted, generator=_generator(plan))


def test_the_start_of_a_round_is_where_distance_counts_from(plan: RunPlan):
    expected = ExpectedModels(plan)
    reply = reply_of(plan, 1)
    far = {name: value + np.float32(1e6) for name, value in reply.classifier.items()}
    assert expected.local_fault(reply, 1, far, last=True) == "implausible"
    assert expected.local_fault(replace(reply, classifier=far), 1, far, last=True) is None


def test_the_reach_of_digits_is_far_below_what_overflows(plan: RunPlan):
    for index, name in enumerate(plan.config.clients.architectures):
        reach = sgd_reach(plan.dpsgd("classifier", 100, name), 10_000)
        assert math.isfinite(reach) and reach < 1e6, index


def test_honest_replies_are_within_the_bytes_of_the_plan_and_not_far_below(plan: RunPlan):
    largest = max(
        content_bytes(encode(reply_of(plan, index)))
        for index in range(len(plan.config.clients.architectures))
    )
    most = most_bytes(plan)
    assert most[LocalTrainingReply] / 3 < largest < most[LocalTrainingReply]
    longest = max(wanted.length for wanted in plan.rounds)
    assert plan.ckks.ciphertexts_for(longest) * plan.ckks.ciphertext_bytes < most[PrototypeReply]
    assert most[PrototypeReply] < 2 * plan.ckks.ciphertexts_for(longest) * plan.ckks.ciphertext_bytes
