from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mosaic_secure.config import RunConfig, config_hash, load_config
from mosaic_secure.errors import UserError
from mosaic_secure.report import comparison
from mosaic_secure.report.comparison_plot import draw_comparison
from mosaic_secure.report.comparison_request import Cell, Request
from mosaic_secure.report.comparison_table import Row, Table, mean_interval, summarise, write_files
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_line

PRIVATE = {"data.visibility": "private", "data.declared_records": 100, "data.population": "mine"}


def cells_of(settings: Mapping[str, Any] | None = None, **lists: str) -> tuple[Cell, ...]:
    return Request.parse(**{"methods": "mosaic", **lists}).cells(
        lambda fields: load_config("digits", fields), settings or {}
    )


def write_run(config: RunConfig, path: Path, scores: Mapping[str, float | None]) -> None:
    """A sealed run that reached these scores."""
    content = {"config": config.to_dict(), "config_hash": config_hash(config)}
    with RunDirectory.create(path, resume=path.exists(), **content) as run:
        rows = [{"metric": "accuracy", "of": name, "value": value} for name, value in scores.items()]
        run.write_bytes("metrics.jsonl", b"".join(json_line(row) for row in rows))
        accuracy = scores.get("global", scores.get("local mean"))
        facts = {"accuracy": accuracy, "teacher_accuracy": scores.get("teacher"), "seconds": 2.0}
        run.seal({"result": {**facts, "epsilon": config.privacy.epsilon, "delta": config.privacy.delta}})


def outcomes_of(cells: Sequence[Cell], folder: Path, run: Any) -> list[comparison.Outcome]:
    with comparison.opened(folder, cells):
        return list(comparison.carry_out(folder, cells, run, lambda *_: None))


def table_of(cells: Sequence[Cell], folder: Path, scores: Any) -> Table:
    outcomes = outcomes_of(
        cells, folder, lambda config, path, resume: write_run(config, path, scores(config))
    )
    return summarise(cells, outcomes)


def row(name: str, alpha: float | None, epsilon: float, by_seed: Mapping[int, float], **changes: Any) -> Row:
    mean, low, high = mean_interval(list(by_seed.values()))
    fields = {"method": name, "preset": None, "trust": "local", "alpha": alpha, "epsilon_target": epsilon}
    measured = {"accuracy": mean, "low": low, "high": high, "seeds": tuple(by_seed), "by_seed": by_seed}
    rest = {"epsilon_spent": epsilon, "delta": 1e-5, "teacher_accuracy": None, "seconds": 1.0}
    return Row(**{**fields, **measured, **rest, "score": "global", **changes})


def test_the_interval_by_hand():
    mean, low, high = mean_interval([0.80, 0.82, 0.90])
    # s^2 = (0.04^2 + 0.02^2 + 0.06^2) / 2 = 0.0028; t(0.975, 2) = 4.302653 in every table
    half = 4.302653 * math.sqrt(0.0028) / math.sqrt(3)
    assert mean == pytest.approx(0.84)
    assert (low, high) == (pytest.approx(0.84 - half, abs=1e-6), pytest.approx(0.84 + half, abs=1e-6))
    assert mean_interval([0.5]) == (0.5, None, None)


def test_runs_of_an_older_version_have_no_further_scores(tmp_path: Path):
    table = table_of(cells_of(seeds="0,1"), tmp_path / "it", lambda config: {"global": 0.9})
    assert [(one.accuracy, one.balanced_accuracy, one.auc) for one in table.rows] == [(0.9, None, None)]


def test_differences_are_paired_by_seed(tmp_path: Path):
    local_scores = {0: 0.80, 1: 0.90}
    gains = {0: 0.02, 1: 0.04}

    def scores(config: RunConfig) -> dict[str, float]:
        gain = gains[config.seed] if config.privacy.trust == "distributed" else 0.0
        return {"global": local_scores[config.seed] + gain, "teacher": 0.95}

    cells = cells_of(trusts="local,distributed", seeds="0,1", epsilons="4")
    table = table_of(cells, tmp_path / "it", scores)
    assert [(row.trust, row.seeds) for row in table.rows] == [("local", (0, 1)), ("distributed", (0, 1))]
    assert table.rows[0].accuracy == pytest.approx(0.85) and table.rows[0].teacher_accuracy == 0.95
    (difference,) = table.differences
    half = 12.706205 * 0.01  # t(0.975, 1) times s / sqrt(2), where s = 0.02 / sqrt(2)
    assert difference["trust"] == "distributed" and difference["difference"] == pytest.approx(0.03)
    assert difference["low"] == pytest.approx(0.03 - half, abs=1e-6)
    assert difference["high"] == pytest.approx(0.03 + half, abs=1e-6)


def test_an_interruption_leaves_only_the_rest_to_do(tmp_path: Path):
    cells = cells_of(epsilons="1,2,4")
    made: list[tuple[str, bool]] = []

    def broken(config: RunConfig, path: Path, resume: bool) -> None:
        made.append((path.name, resume))
        if config.privacy.epsilon == 2 and not resume:
            RunDirectory.create(path, config=config.to_dict(), config_hash=config_hash(config)).close()
            raise KeyboardInterrupt
        write_run(config, path, {"global": 0.5})

    with pytest.raises(KeyboardInterrupt):
        outcomes_of(cells, tmp_path / "it", broken)
    states = [comparison.state_of(tmp_path / "it", cell) for cell in cells]
    assert states == [comparison.DONE, comparison.BROKEN_OFF, comparison.MISSING]
    outcomes = outcomes_of(cells, tmp_path / "it", broken)
    names = [cell.slug for cell in cells]
    assert made == [(names[0], False), (names[1], False), (names[1], True), (names[2], False)]
    assert all(outcome.measured is not None for outcome in outcomes)


def test_another_request_and_another_process_are_refused(tmp_path: Path):
    cells = cells_of(epsilons="1,2")
    with comparison.opened(tmp_path / "it", cells), pytest.raises(UserError, match="another process"):
        comparison.opened(tmp_path / "it", cells).__enter__()
    before = (tmp_path / "it" / "comparison.json").read_bytes()
    changed = [
        cells_of(epsilons="1"),
        cells_of(epsilons="1,2,4"),
        cells_of({"gate.steps": 3}, epsilons="1,2"),
    ]
    for others, words in zip(changed, ("it has", "it lacks", "has other settings for"), strict=True):
        with pytest.raises(UserError, match=words):
            comparison.check_request(tmp_path / "it", others)
    moved = cells_of({"data.root": "/elsewhere"}, epsilons="1,2")
    assert comparison.check_request(tmp_path / "it", moved)  # where data lie changes no result
    assert (tmp_path / "it" / "comparison.json").read_bytes() == before


def test_a_damaged_run_fails_alone_and_is_not_overwritten(tmp_path: Path):
    cells = cells_of(epsilons="1,2")
    table_of(cells, tmp_path / "it", lambda _: {"global": 0.5})
    spoilt = tmp_path / "it" / "runs" / cells[0].slug / "metrics.jsonl"
    spoilt.write_bytes(b"{}\n")
    table = table_of(cells, tmp_path / "it", lambda _: pytest.fail("nothing is to be trained"))
    assert len(table.rows) == 1 and "damaged" in table.failed[0]["reason"]
    assert spoilt.read_bytes() == b"{}\n"


def test_private_data_have_no_accuracy_and_files_do_not_repeat_their_errors(tmp_path: Path):
    cells = cells_of(PRIVATE, epsilons="1,2")

    def run(config: RunConfig, path: Path, resume: bool) -> None:
        if config.privacy.epsilon == 2:
            raise UserError("client-1 holds 7 records; at least 10 are needed")
        write_run(config, path, {"global": None})

    outcomes = outcomes_of(cells, tmp_path / "it", run)
    assert "7 records" in outcomes[1].reason
    table = summarise(cells, outcomes)
    written = write_files(tmp_path / "it", table)
    assert [path.name for path in written] == ["table.md", "table.csv", "table.json"]
    assert table.rows[0].accuracy is None and "no public test part" in " ".join(table.notes)
    assert all(b"7 records" not in path.read_bytes() for path in written)
    assert "UserError" in table.failed[0]["reason"]


def test_a_method_without_a_global_model_is_scored_by_the_mean_of_its_clients(tmp_path: Path):
    cells = cells_of()
    table = table_of(cells, tmp_path / "it", lambda _: {"local mean": 0.4, "local best": 0.7})
    assert (table.rows[0].accuracy, table.rows[0].score) == (0.4, "local mean")
    assert "mean over the clients" in " ".join(table.notes)


def test_what_is_combined():
    cells = cells_of(epsilons="4,inf,4.0", alphas="0.1,0.5", seeds="3", trusts="local,distributed")
    assert len(cells) == 8 and len({cell.slug for cell in cells}) == 8
    assert {cell.config.partition.alpha for cell in cells} == {0.1, 0.5} == {cell.alpha for cell in cells}
    assert {cell.config.privacy.epsilon for cell in cells} == {4, math.inf}
    assert {cell.config.seed for cell in cells} == {3}
    shared = {"privacy.honest_clients": 3, "methods.mosaic.gate.steps": 7}
    both = cells_of(shared, trusts="local,distributed")
    assert [cell.config.privacy.honest_clients for cell in both] == [None, 3]
    assert both[0].config.gate.steps == 7
    assert cells_of({"partition.kind": "iid"})[0].alpha is None


def test_central_is_run_once_whatever_the_partition_and_held_against_all(tmp_path: Path):
    given: list[tuple[str, dict[str, Any]]] = []

    def load(fields: Mapping[str, Any]) -> RunConfig:
        method = fields["method"]
        given.append((method, dict(fields)))
        rest = {name: value for name, value in fields.items() if name not in ("method", "preset")}
        rest |= {"partition.kind": "iid"} if method == "central" else {}
        return load_config("digits", rest).model_copy(update={"method": method})

    request = Request((("mosaic", None), ("central", None)), (4.0,), (0, 1), (None,), (0.1, 0.5))
    cells = request.cells(load, {"clients.count": 3, "gate.steps": 7})
    assert [(cell.method, cell.alpha, cell.seed) for cell in cells] == [
        (method, alpha, seed)
        for seed in (0, 1)
        for method, alpha in (("mosaic", 0.1), ("central", None), ("mosaic", 0.5))
    ]
    for method, fields in given:
        assert ("clients.count" in fields, "partition.alpha" in fields) == (method == "mosaic",) * 2
        assert fields["gate.steps"] == 7
    table = table_of(cells, tmp_path / "it", lambda config: {"global": 0.9 - config.partition.alpha})
    assert [(one["method"], one["alpha"]) for one in table.differences] == [
        ("central", 0.1),
        ("central", 0.5),
    ]
    assert [one["difference"] for one in table.differences] == [pytest.approx(0.0), pytest.approx(0.4)]


def test_the_picture_has_a_panel_for_each_alpha_and_central_in_all():
    seeds = {0: 0.8, 1: 0.82}
    rows = [row("mosaic", alpha, eps, seeds) for alpha in (0.1, 1.0) for eps in (1.0, math.inf)]
    rows.append(row("central", None, 1.0, {0: 0.9}))
    one = Image.open(io.BytesIO(draw_comparison(rows[:2], "one"))).size
    two = Image.open(io.BytesIO(draw_comparison(rows, "two"))).size
    assert one[0] == two[0] == 1200 and two[1] == 2 * one[1]
