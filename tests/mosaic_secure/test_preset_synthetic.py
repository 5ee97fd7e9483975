"""The preset "synthetic" from end to end, on 240 digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mosaic_secure
from mosaic_secure.config import load_config
from mosaic_secure.plan import IMAGE_ROUNDS
from mosaic_secure.runs import synthesis
from mosaic_secure.server import fresh_student

from .tiny import Outcome, command, tiny_train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    place = tmp_path_factory.mktemp("synthetic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_student, "_LEAST_STEPS", 40)
        outcome = tiny_train(place, "--preset", "synthetic", "--epsilon", 1, sampler__image_size=4)
    assert outcome.status == 0, outcome.err
    return place / "run", outcome


def test_it_spends_its_budget_and_tells_what_its_synthetic_records_are_worth(run):
    path, outcome = run
    assert 0.99 <= outcome.json["epsilon"] <= 1
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    [score] = [
        row["value"] for row in rows if (row["of"], row["metric"]) == (fresh_student.SCORE, "accuracy")
    ]
    assert score == outcome.json["fresh_student_accuracy"] and 0 <= score <= 1
    assert command("verify", path).status == 0


def test_the_statement_lists_the_sums_of_images_as_encrypted(run):
    statement = json.loads((run[0] / "privacy.json").read_text())
    rows = {row["name"]: row for row in statement["mechanisms"]}
    assert all(rows[name]["encrypted"] for name in IMAGE_ROUNDS)


def test_images_are_drawn_from_the_sampler_of_the_run(run):
    drawn = synthesis.draw(run[0], 40, seed=1)
    assert drawn.generators == ("sampler",) and drawn.images.shape == (40, 1, 8, 8)
    assert len(np.unique(drawn.images.reshape(40, -1), axis=0)) == 40
    model = mosaic_secure.load(run[0])
    assert np.array_equal(drawn.labels, model.predict(drawn.images / np.float32(255)))
    again = synthesis.draw(run[0], 40, seed=1)
    assert np.array_equal(drawn.images, again.images)


READY = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar10_subset", "pneumonia")


@pytest.mark.parametrize("name", READY)
def test_ready_runs_offer_it(name):
    config = load_config(name, {"preset": "synthetic"})
    assert config.sampler.enabled and config.distill.fresh_student
    assert config.privacy.shares.classifier >= 0.12 and config.privacy.shares.generator >= 0.12
