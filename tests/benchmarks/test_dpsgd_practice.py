"""The tool that tries DP-SGD practice: its rows, its networks, and what a warm start may see."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from mosaic_secure.config import load_config
from mosaic_secure.models.classifiers import StandardisedConv2d
from mosaic_secure.plan import build_plan


@pytest.fixture(scope="module")
def tool(load) -> ModuleType:
    return load("dpsgd_practice")


def test_rows_hold_every_run(tool: ModuleType, tmp_path: Path) -> None:
    rows = ["try.model=mlp", "try.model=mlp try.warm=1 try.private=0", "try.model=mlp classifier.steps=3"]
    words = [
        "sample",
        "--config",
        "digits",
        "--epsilons",
        "4,inf",
        "--seeds",
        "0,1",
        "--results",
        str(tmp_path),
    ]
    tool.main(words + [word for row in rows for word in ("--variant", row)])
    record = json.loads((tmp_path / "bakeoff_sample.json").read_text(encoding="utf-8"))
    assert record["cells"] == ["epsilon 4", "epsilon inf"]
    trained, warm, short = record["rows"]
    assert all(len(row["runs"][cell]) == 2 for row in record["rows"] for cell in record["cells"])
    assert trained["epsilon inf"] > trained["epsilon 4"] > 0.2  # one client of five, a part of its budget
    assert warm["epsilon inf"] > 0.5  # images of the class moments teach a network without one record
    assert short["difference"]["mean"] < -5


def test_normalisations_can_be_left_out(tool: ModuleType) -> None:
    plan = build_plan(load_config("digits"))

    def kinds(model: str) -> set[type]:
        return {type(module) for module in tool.network(plan, model).modules()}

    assert {StandardisedConv2d, nn.GroupNorm} <= kinds("cnn_wide")
    assert StandardisedConv2d not in kinds("cnn_wide-ws") and nn.GroupNorm in kinds("cnn_wide-ws")
    assert kinds("cnn_wide-ws-gn").isdisjoint({StandardisedConv2d, nn.GroupNorm})
    images = torch.rand(3, *plan.image_shape)
    assert tool.network(plan, "cnn_wide-ws-gn")(images).shape == (3, plan.num_classes)


def test_a_misspelt_trial_is_refused(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match="try.modle is unknown"):
        tool.Practice.of({"try.modle": "cnn"})
