"""Validators reject layers that mix records, and the fix they offer works."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privacy.errors import UnsafeModelError
from privacy.validation import group_count, make_safe, probe, validate


def frozen_batch_norm() -> nn.Module:
    layer = nn.BatchNorm2d(8, affine=False)
    return layer.eval()


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(8),
        nn.BatchNorm2d(8),
        nn.BatchNorm3d(8),
        nn.SyncBatchNorm(8),
        nn.LazyBatchNorm2d(),
        frozen_batch_norm(),
        nn.InstanceNorm2d(8, track_running_stats=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_mix_records_are_named_with_a_fix(layer):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sequential(layer))
    with pytest.raises(UnsafeModelError, match="make_safe") as caught:
        validate(model)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("1.0 (")


def test_every_problem_is_listed():
    with pytest.raises(UnsafeModelError) as caught:
        validate(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.InstanceNorm2d(8), nn.Dropout()])
def test_per_record_layers_pass(layer):
    validate(nn.Sequential(nn.Linear(8, 8), layer))


def test_make_safe_replaces_and_leaves_the_original_alone():
    model = nn.Sequential(nn.Conv2d(1, 24, 3), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.Flatten())
    nn.init.constant_(model[1].weight, 1.7)
    safe = make_safe(model)
    validate(safe)
    assert isinstance(model[1], nn.BatchNorm2d) and model[2].inplace
    assert isinstance(safe[1], nn.GroupNorm) and not safe[2].inplace
    assert torch.equal(safe[1].weight, model[1].weight)
    probe(safe.train(), [torch.rand(4, 1, 6, 6)])


def test_make_safe_of_a_bare_layer():
    assert isinstance(make_safe(nn.BatchNorm2d(8)), nn.GroupNorm)
    assert not make_safe(nn.InstanceNorm2d(8, track_running_stats=True)).track_running_stats


def test_probe_finds_hidden_mixing():
    with pytest.raises(UnsafeModelError, match="another record"):
        probe(lambda x: x - x.mean(0), [torch.rand(4, 3)])
    with pytest.raises(UnsafeModelError, match="another record"):
        probe(nn.BatchNorm1d(3).train(), [torch.rand(4, 3)])
    with pytest.raises(UnsafeModelError, match="row for each record"):
        probe(lambda x: x.mean(), [torch.rand(4, 3)])


@pytest.mark.parametrize("channels", [1, 3, 7, 16, 24, 72, 88, 512])
def test_group_count_divides(channels):
    assert channels % group_count(channels) == 0
    assert group_count(channels) <= 32
