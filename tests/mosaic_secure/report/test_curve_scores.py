"""Accuracy by class and client, and calibration, by hand and from a sealed run."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_secure.config import load_config
from mosaic_secure.data.clients import label_counts, load_public_test
from mosaic_secure.report.comparison import Measured, Outcome
from mosaic_secure.report.comparison_request import Request
from mosaic_secure.report.curve.scores import calibration_error, score_run
from mosaic_secure.report.remaining import in_words, seconds_left
from mosaic_secure.runs.directory import RunDirectory

from ..tiny import tiny_config


def test_calibration_error_by_hand():
    # Three records at 0.7, two of them right; one at 0.95 and wrong: (3 |2/3 - 0.7| + 1 |0 - 0.95|) / 4
    sure = np.array([0.7, 0.7, 0.7, 0.95])
    chances = np.stack([sure, 1 - sure], axis=1)
    found = calibration_error(chances, np.array([0, 0, 1, 1]))
    assert found == pytest.approx((3 * abs(2 / 3 - 0.7) + 0.95) / 4)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_scores_of_a_run_add_up_to_what_it_reports(finished):
    config = tiny_config()
    run = RunDirectory.open(finished.path)
    found = score_run(run, config)
    labels = load_public_test(config)[1]
    by_class = np.array([found.by_class[name] for name in map(str, range(10))])
    assert np.average(by_class, weights=np.bincount(labels, minlength=10)) == pytest.approx(
        run.manifest["result"]["accuracy"]
    )
    held = label_counts(config)
    for client, counts in zip(config.client_ids, held, strict=True):
        assert found.by_client[client] == pytest.approx(np.average(by_class, weights=counts))
        assert found.holds[client] == tuple(counts)
    assert 0 <= found.ece <= 1


def test_nothing_is_scored_on_data_without_a_public_test_part(finished):
    fields = {"data.visibility": "private", "data.declared_records": 80, "data.population": "mine"}
    private = load_config("digits", fields)
    assert score_run(RunDirectory.open(finished.path), private) is None


def test_the_time_that_is_left_is_that_of_runs_of_the_same_method():
    request = Request.parse("mosaic,fedavg,central", "4", "0,1")
    cells = request.cells(lambda fields: load_config("digits", fields), {})
    assert seconds_left([], cells) is None
    took = {"mosaic": 30.0, "fedavg": 10.0}
    ended = [Outcome(cell, Measured(0.5, "global", 4.0, 1e-5, None, took[cell.method])) for cell in cells[:2]]
    assert seconds_left(ended, cells[2:]) == pytest.approx(20 + 30 + 10 + 20)  # central: the mean of all
    assert [in_words(seconds) for seconds in (1, 42, 600, 9000)] == ["5 s", "40 s", "10 min", "2.5 h"]
