"""The loss against its formula, and a student that learns from synthetic records alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mosaic_secure.config import DistillConfig
from mosaic_secure.models.registry import build_classifier
from mosaic_secure.server.distillation import distil, distillation_loss

SHAPE, CLASSES = (1, 8, 8), 3


def draws(count: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Student logits and teacher log-probabilities."""
    stream = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(count, CLASSES, generator=stream) for _ in range(2))
    return student, teacher.log_softmax(-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def only(term: str, **options) -> DistillConfig:
    return DistillConfig(**({"kl": 0.0, "ce": 0.0, "js": 0.0, "temperature": 1.0} | {term: 1.0} | options))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_is_its_formula(temperature):
    student, teacher = draws()
    config = DistillConfig(kl=0.7, ce=0.3, js=1.4, temperature=temperature)
    s = softmax(student.double().numpy() / temperature)
    t = softmax(teacher.double().numpy() / temperature)
    m = (s + t) / 2
    kl = (t * np.log(t / s)).sum(-1).mean()
    js = ((t * np.log(t / m)).sum(-1) + (s * np.log(s / m)).sum(-1)).mean() / 2
    target = teacher.argmax(-1).numpy()
    ce = -np.log(softmax(student.double().numpy())[np.arange(6), target]).mean()
    wanted = temperature**2 * (0.7 * kl + 1.4 * js) + 0.3 * ce
    assert float(distillation_loss(student, teacher, config)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 50.0])
def test_jensen_shannon_is_symmetric_and_lies_between_zero_and_log_two(seed, sharpness):
    first, second = (value * sharpness for value in draws(20, seed))
    there = float(distillation_loss(first, second.log_softmax(-1), only("js")))
    back = float(distillation_loss(second, first.log_softmax(-1), only("js")))
    assert there == pytest.approx(back, abs=1e-5)
    assert -1e-6 <= there <= math.log(2) + 1e-6


def test_jensen_shannon_reaches_log_two_for_answers_that_exclude_each_other():
    student, teacher = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 200.0, 0.0]]).log_softmax(-1)
    assert float(distillation_loss(student, teacher, only("js"))) == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("term", ["kl", "js"])
def test_a_student_that_answers_as_the_teacher_has_no_divergence(term):
    _, teacher = draws()
    assert float(distillation_loss(teacher + 5.0, teacher, only(term))) == pytest.approx(0, abs=1e-6)


def task(count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in which class c is a bright column, and a teacher that says so."""
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    images = 0.3 * torch.rand(count, *SHAPE, generator=stream)
    images[torch.arange(count), 0, 2:6] += 0.7 * torch.nn.functional.one_hot(labels + 2, 8).float()[:, None]
    teacher = (3.0 * torch.nn.functional.one_hot(labels, CLASSES).float()).log_softmax(-1)
    return images.clamp(0, 1), teacher


def student(architecture: str = "mlp") -> torch.nn.Module:
    options = {"encoder_seed": 1} if architecture == "scatter_head" else {}
    return build_classifier(architecture, SHAPE, CLASSES, 0, **options)


def settings(**options) -> DistillConfig:
    quick = {"steps": 60, "batch": 32, "learning_rate": 0.01, "confidence": 0.0}
    return DistillConfig(**(quick | options))


@pytest.mark.parametrize("architecture", ["mlp", "scatter_head"])
@pytest.mark.parametrize(
    "options", [{}, {"ema_student": 0.8}, {"optimizer": "sgd", "learning_rate": 0.1}], ids=str
)
def test_a_student_learns_from_its_teacher(architecture, options):
    images, teacher = task()
    made, config = student(architecture), settings(**options)
    before = float(distillation_loss(made(images).detach(), teacher, config))
    kept = distil(made, images, teacher, config, seed=0)
    after = made(images).detach()
    assert kept == len(images)
    assert float(distillation_loss(after, teacher, config)) < before / 2
    assert float((after.argmax(-1) == teacher.argmax(-1)).double().mean()) > 0.9
    assert not made.training


def test_only_what_is_trained_moves():
    made = student("scatter_head")
    trunk = {name: value.clone() for name, value in made.trunk.named_buffers()}
    distil(made, *task(), settings(steps=3), seed=0)
    assert all(torch.equal(value, trunk[name]) for name, value in made.trunk.named_buffers())


def test_records_on_which_the_teacher_is_unsure_are_left_out():
    images, teacher = task()
    unsure = teacher.clone()
    unsure[30:] = math.log(1 / CLASSES)
    found = []
    for pictures, answers in ((images, unsure), (images[:30], teacher[:30])):
        made = student()
        assert distil(made, pictures, answers, settings(steps=4, confidence=0.5), seed=0) == 30
        found.append(made.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_teacher_that_is_never_sure_is_still_listened_to():
    images, _ = task(12)
    even = torch.full((12, CLASSES), math.log(1 / CLASSES))
    assert distil(student(), images, even, settings(steps=2, confidence=0.9), seed=0) == 12


def test_a_seed_fixes_the_student_and_torchs_own_stream_does_not_touch_it():
    found = []
    for seed, stream in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(stream)
        state = torch.random.get_rng_state()
        made = student()
        distil(made, *task(), settings(steps=5), seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        found.append(made.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert any(not torch.equal(value, found[2][name]) for name, value in found[0].items())
