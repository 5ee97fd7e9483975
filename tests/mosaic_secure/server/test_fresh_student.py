"""A network that learns from synthetic records and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.server import assembly, fresh_student
from mosaic_secure.server.assembly import Parts, assemble

from .test_assembly import plan, records, releases


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(fresh_student, "_LEAST_STEPS", 120)


def test_it_learns_what_the_synthetic_records_show():
    images, labels = (torch.from_numpy(np.asarray(part)) for part in records(300))
    model = fresh_student.fresh_student(images, labels, 3, seed=0)
    others, wanted = records(60, seed=1)
    assert (predict_logits(model, torch.from_numpy(others)).argmax(-1).numpy() == wanted).mean() > 0.9
    assert not model.training


def test_the_seed_decides_and_torchs_own_stream_does_not():
    images, labels = (torch.from_numpy(np.asarray(part)) for part in records(100))
    found = []
    for stream, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(stream)
        found.append(fresh_student.fresh_student(images, labels, 3, seed).state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert not all(torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_it_sees_the_pool_with_the_teachers_labels_and_is_scored_on_the_public_test_part(monkeypatch):
    made = plan(distill__fresh_student=True)
    seen = []
    monkeypatch.setattr(
        assembly,
        "fresh_student",
        lambda *given: seen.append(given) or fresh_student.fresh_student(*given),
    )
    result = assemble(made, releases(made), Parts.of(made), test=records(60, seed=1))
    images, labels, classes, *_ = seen[0]
    assert torch.equal(images, result.synthetic[0]) and torch.equal(labels, result.synthetic[1])
    assert len(images) == made.config.distill.synthetic_pool + classes
    assert 0 <= result.scores[fresh_student.SCORE] <= 1


def test_it_changes_nothing_of_the_global_model():
    made = plan()
    received = releases(made)
    off, on = (
        assemble(made, received, Parts(fresh_student=fresh)).model.state_dict() for fresh in (False, True)
    )
    assert all(torch.equal(value, on[name]) for name, value in off.items())
