"""The tool that distils the same releases under several settings, on held-out training records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mosaic_secure.config import load_config
from mosaic_secure.data.benchmarks import read_benchmark
from tests.mosaic_secure.tiny import tiny_config


@pytest.fixture(scope="module")
def tool(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("distillation_tried")


class Parted:
    """Forty public records in colour, split as `bakeoff.Records` splits them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
        self.classes = np.arange(40) % 10
        images = (self.pixels / np.float32(255)).astype(np.float32)
        self.images, self.score_images = images[:30], images[30:]
        self.labels, self.score_labels = self.classes[:30], self.classes[30:]


def test_the_held_out_records_stand_where_the_test_part_would_be(tool: ModuleType, tmp_path: Path) -> None:
    records = Parted()
    tool.lay_out(records, "cifar10_subset", tmp_path)
    for train, part in ((True, slice(0, 30)), (False, slice(30, 40))):
        found = read_benchmark("cifar10_subset", tmp_path, train)
        assert np.array_equal(found.images, records.pixels[part])
        assert np.array_equal(found.labels, records.classes[part])


def test_rows_share_releases_and_differ_in_their_distillation(tool: ModuleType, tmp_path: Path) -> None:
    rows = [tiny_config(), tiny_config(), tiny_config(distill__warm_start=False, distill__steps=2)]
    first, again, other = tool.distilled(rows[0], rows, tmp_path)
    assert first == again  # noise of the releases is fresh in every run, so this is one run
    assert all(first[name] == other[name] for name in ("experts/prototype", "teacher"))
    # The latter is as good as untrained: in 12 runs 0.51 less, with a standard deviation of 0.06.
    assert first["global"] > other["global"] + 0.1


def test_what_a_row_may_not_set_is_refused(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        tool.main(["x", "--vary", "privacy.epsilon=1,4"])
    assert refused.value.code == 2
    assert "privacy.epsilon: a row's settings are of distill or gate" in capsys.readouterr().err


def test_the_table_has_the_gap_of_each_row_and_trust(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[argparse.Namespace] = []

    def distilled(config, rows, scratch):
        seen.append(argparse.Namespace(config=config, rows=rows))
        assert (scratch / "pneumoniamnist.npz").is_file()
        models = (0.5, 0.75)
        return [{"experts/prototype": 0.25, "teacher": 0.75, "global": model} for model in models]

    part = Parted()
    part.images, part.score_images = part.images[:, :1, :28, :28], part.score_images[:, :1, :28, :28]
    monkeypatch.setattr(tool, "Records", lambda *_: part)
    monkeypatch.setattr(tool, "distilled", distilled)
    rows = ["--variant", "", "--variant", "distill.learning_rate=5e-4"]
    tool.main(["x", "--config", "pneumonia", "--seeds", "0,1", *rows, "--results", str(tmp_path)])
    record = json.loads((tmp_path / "bakeoff_x.json").read_text(encoding="utf-8"))
    assert record["scored_on"] == "10 held-out training records"
    shown = tool.table(record)
    assert "| as configured | local | 25.00 | 75.00 | 50.00 | -25.00 |" in shown
    assert "| distill.learning_rate=5e-4 | distributed | 25.00 | 75.00 | 75.00 | +0.00 |" in shown
    assert [(run.config.seed, run.config.privacy.trust) for run in seen] == [
        (0, "local"),
        (0, "distributed"),
        (1, "local"),
        (1, "distributed"),
    ]
    assert {run.rows[1].distill.learning_rate for run in seen} == {5e-4}
    assert load_config("pneumonia").distill.learning_rate == seen[0].rows[0].distill.learning_rate != 5e-4
