from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mosaic_secure.engine import local
from mosaic_secure.runs.directory import RunDirectory

SETTINGS = {
    "data.limit": 240,
    "clients.count": 3,
    "clients.architectures": "mlp",
    "partition.kind": "iid",
    "prototypes.dim": 32,
    "prototypes.image_size": 4,
    "classifier.steps": 2,
    "generator.steps": 2,
    "gate.steps": 2,
    "distill.steps": 2,
    "distill.synthetic_pool": 64,
    "engine.device": "cpu",
    "engine.workers": 0,
}
SET = [text for name, value in SETTINGS.items() for text in ("--set", f"{name}={value}")]
TWO = ["--methods", "mosaic", "--epsilons", "inf", "--seeds", "0,1", *SET]


def places(folder: Path) -> list[object]:
    return ["--out", folder / "it", "--ledger-dir", folder / "ledgers"]


def metrics(run: Path) -> dict[str, Any]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["metric"] == "accuracy"]
    return {row["of"]: row["value"] for row in rows}


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, bool]]:
    """Counts the runs that are really made: (name, resumed)."""
    seen: list[tuple[str, bool]] = []
    train = local.train

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append((options["out"].name, options["resume"]))
        return train(*arguments, **options)

    monkeypatch.setattr(local, "train", counted)
    return seen


def test_the_table_says_what_the_runs_say_and_a_second_call_trains_nothing(mosaic, trained, tmp_path: Path):
    outcome = mosaic("compare", *TWO, *places(tmp_path), "--json")
    assert outcome.status == 0, outcome.err
    assert "[1/2] " in outcome.err and "[2/2] " in outcome.err
    runs = {path.name: path for path in (tmp_path / "it" / "runs").iterdir()}
    assert [name for name, _ in trained] == sorted(runs) and len(runs) == 2
    found = [metrics(path) for path in runs.values()]
    results = [RunDirectory.open(path).manifest["result"] for path in runs.values()]
    rows = outcome.json["rows"]
    (row,) = rows
    assert row["accuracy"] == pytest.approx(sum(scores["global"] for scores in found) / 2)
    assert row["teacher_accuracy"] == pytest.approx(sum(scores["teacher"] for scores in found) / 2)
    for name in ("balanced_accuracy", "auc"):
        assert row[name] == pytest.approx(sum(result[name] for result in results) / 2)
        assert f"{row[name]:.4f}" in (tmp_path / "it" / "table.md").read_text()
    assert row["seconds"] == pytest.approx(sum(result["seconds"] for result in results) / 2)
    assert row["delta"] == results[0]["delta"] and row["epsilon_spent"] == row["epsilon_target"] == "inf"
    assert row["low"] <= row["accuracy"] <= row["high"] and row["seeds"] == "0,1"
    assert any("95 % t interval" in note for note in outcome.json["notes"])
    stored = json.loads((tmp_path / "it" / "table.json").read_text())
    assert stored["rows"] == rows
    (first,) = csv.DictReader(io.StringIO((tmp_path / "it" / "table.csv").read_text()))
    assert float(first["accuracy"]) == rows[0]["accuracy"] and first["preset"] == (row["preset"] or "")
    assert f"{rows[0]['accuracy']:.4f}" in (tmp_path / "it" / "table.md").read_text()
    assert Image.open(tmp_path / "it" / "comparison.png").size[0] == 1200

    again = mosaic("compare", *TWO, *places(tmp_path), "--json")
    assert again.status == 0 and len(trained) == 2
    assert again.json["rows"] == rows and "is done" in again.err
    listed = mosaic("compare", *TWO, *places(tmp_path), "--dry-run", "--json").json["runs"]
    assert [row["state"] for row in listed] == ["done", "done"]

    other = mosaic("compare", *TWO, *places(tmp_path), "--set", "methods.mosaic.gate.steps=3")
    lines = [line for line in other.err.splitlines() if not line.startswith("WARNING")]
    assert other.status == 2 and len(lines) == 1 and "another comparison: it has other settings" in lines[0]
    assert len(trained) == 2


def test_a_dry_run_lists_what_each_run_is_planned_to_spend(mosaic, trained, tmp_path: Path):
    options = ["--methods", "mosaic", "--epsilons", "1", "--trust", "local,distributed", "--seeds", "0,1"]
    outcome = mosaic("compare", *options, *SET, *places(tmp_path), "--dry-run", "--json")
    rows = outcome.json["runs"]
    assert outcome.status == 0 and len({row["run"] for row in rows}) == 4
    assert all(0.9 < row["epsilon_planned"] <= 1 and row["state"] == "missing" for row in rows)
    assert not trained and not list(tmp_path.iterdir())


def test_a_run_that_fails_is_told_and_the_others_go_on(mosaic, monkeypatch, tmp_path: Path):
    train = local.train

    def failing(config: Any, **options: Any) -> Any:
        if config.no_noise:
            raise RuntimeError("no luck\nat all")
        return train(config, **options)

    monkeypatch.setattr(local, "train", failing)
    options = ["--methods", "mosaic", "--epsilons", "inf,4", *SET]
    outcome = mosaic("compare", *options, *places(tmp_path), "--json")
    assert outcome.status == 1
    (row,) = outcome.json["rows"]
    assert (row["epsilon_target"], row["low"], row["high"], row["seeds"]) == (4, None, None, "0")
    assert 3.9 < row["epsilon_spent"] <= 4
    assert any("no interval" in note for note in outcome.json["notes"])
    (failed,) = outcome.json["failed"]
    assert failed["reason"] == "unexpected RuntimeError: no luck at all" and "inf" in failed["run"]
    assert failed["reason"] in (tmp_path / "it" / "table.md").read_text() and failed["reason"] in outcome.err
    assert any("1 of 2 runs" in note for note in outcome.json["notes"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epsilons", "0"], "--epsilons"),
        (["--epsilons", "1,a"], "'a'"),
        (["--epsilons", "nan"], "--epsilons"),
        (["--epsilons", ""], "--epsilons"),
        (["--methods", "mosaik"], "no method"),
        (["--methods", "mosaic:"], "mosaic:PRESET"),
        (["--methods", "mosaic:nothing"], "preset"),
        (["--seeds", "1,-1"], "--seeds"),
        (["--seeds", "x"], "--seeds"),
        (["--trust", "nobody"], "--trust"),
        (["--alphas", "0"], "--alphas"),
        (["--alphas", "1", "--set", "partition.kind=iid"], "partition.kind"),
        (["--set", "seed=3"], "--seeds"),
        (["--set", "methods.mosaic.privacy.epsilon=3"], "--epsilons"),
        (["--set", "methods.nobody.distill.steps=3"], "methods.NAME.FIELD"),
        (["--set", "distill.stepz=3"], "did you mean distill.steps"),
        (["--config", "digit"], "digits"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(
    mosaic, trained, tmp_path: Path, arguments: list[str], named: str
):
    assert named in mosaic("compare", *arguments, *places(tmp_path)).refusal
    assert not trained and not list(tmp_path.iterdir())


def test_a_directory_with_something_else_is_refused(mosaic, trained, tmp_path: Path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "thesis.txt").write_text("mine")
    assert "thesis.txt" in mosaic("compare", "--methods", "mosaic", *places(tmp_path)).refusal
    assert not trained and [path.name for path in (tmp_path / "it").iterdir()] == ["thesis.txt"]


def test_sigterm_leaves_what_is_done_and_a_line_that_goes_on(mosaic, trained, monkeypatch, tmp_path: Path):
    train = local.train

    def stopped(config: Any, **options: Any) -> Any:
        def tell(progress: Any) -> None:
            if config.seed == 1 and progress.stage == "prototypes":
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, **{**options, "progress": tell})

    with monkeypatch.context() as patch:
        patch.setattr(local, "train", stopped)
        outcome = mosaic("compare", *TWO, *places(tmp_path))
    line = outcome.err.splitlines()[-1]
    assert outcome.status == 130 and line.startswith("interrupted after 1 of 2 runs"), outcome.err
    assert json.loads((tmp_path / "it" / "table.json").read_text())["rows"][0]["seeds"] == "0"
    program, *arguments = shlex.split(line.partition("continue with: ")[2])
    assert program == "mosaic-secure"
    trained.clear()
    outcome = mosaic(*arguments, "--json")
    assert outcome.status == 0, outcome.err
    ((name, resumed),) = trained
    assert name.endswith("seed1") and resumed and outcome.json["rows"][0]["seeds"] == "0,1"
