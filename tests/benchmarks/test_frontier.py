"""The tables of the privacy-utility frontier: what they say of runs, and that the documents say the same."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

HOUSE = Path(__file__).resolve().parents[2]
RESULTS = HOUSE / "docs" / "results.md"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HOUSE / "benchmarks"))
    for name in ("frontier", "frontier_tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import frontier_tables

    return frontier_tables


@pytest.fixture
def folder(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys.modules["frontier"], "FOLDER", tmp_path)
    return tmp_path


def keep(folder: Path, name: str, runs: list[dict]) -> None:
    record = {"schema_version": 1, "name": name, "command": "mosaic-secure train", "runs": runs}
    (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")


def run(seed: int, accuracy: float, **others) -> dict:
    return {"seed": seed, "status": 0, "accuracy": accuracy, "wall_seconds": 60.0, **others}


def printed(tables: ModuleType, capsys: pytest.CaptureFixture, *words: str) -> list[list[str]]:
    tables.main(list(words))
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_scores_are_means_of_runs_that_ended_well(tables, folder, capsys):
    failed = {"seed": 2, "status": 2, "wall_seconds": 1.0}
    keep(folder, "digits_accuracy_4_local", [run(0, 0.9, teacher_accuracy=0.95), run(1, 0.94), failed])
    keep(folder, "mnist_synthetic_4_local", [run(0, 0.9, fresh_student_accuracy=0.931, epsilon="inf")])
    head, _, digits, mnist = printed(tables, capsys, "scores")
    digits, mnist = dict(zip(head, digits, strict=True)), dict(zip(head, mnist, strict=True))
    assert (digits["seeds"], digits["goal"], digits["accuracy"]) == ("2", "accuracy 92.0", "92.00")
    assert (digits["teacher"], digits["range"], digits["minutes"]) == ("95.00", "90.00 to 94.00", "1.00")
    assert (mnist["goal"], mnist["range"], mnist["epsilon"]) == ("fresh CNN 93.0", "-", "inf")


def test_differences_are_paired_by_seed(tables, folder, capsys):
    keep(folder, "fashion_mnist_accuracy_4_local", [run(0, 0.80), run(1, 0.90), run(2, 0.5)])
    keep(folder, "fashion_mnist_4_local_iid", [run(0, 0.81), run(1, 0.93)])
    keep(folder, "fashion_mnist_4_local_alpha1", [run(1, 0.89)])
    _, _, alone, even = printed(tables, capsys, "differences")
    assert alone[2:] == ["1", "89.00", "-1.00", "one seed"]
    # Student's t of one degree of freedom: 12.706 times the standard error of (1, 3), which is 1
    assert even[2:] == ["2", "87.00", "+2.00", "-10.71 to +14.71"]


def test_an_ablation_averages_each_part(tables, folder, capsys):
    def part(name: str, model: float, worth: float | None) -> dict:
        return {"without": name, "teacher": 0.9, "global_model": model, "fresh_cnn": None, "worth": worth}

    runs = [run(s, 0.9, ablation=[part("all", 0.9, None), part("gate", 0.8 + s / 10, 0.1)]) for s in (0, 1)]
    keep(folder, "ablation_digits_4", runs)
    _, _, whole, gate = printed(tables, capsys, "ablation", "--only", "digits")
    assert whole[2:] == ["all", "90.00", "90.00", "-", "-"]
    assert gate[2:] == ["gate", "90.00", "85.00", "-", "10.00"]


def documented() -> list[str]:
    text = RESULTS.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^python benchmarks/frontier_tables\.py (.*)$", text, re.MULTILINE)


def test_the_document_names_commands():
    assert len(documented()) >= 4


@pytest.mark.parametrize("line", documented())
def test_tables_of_the_document_are_those_of_the_results(tables, capsys, line):
    tables.main(shlex.split(line))
    assert capsys.readouterr().out.strip() in RESULTS.read_text(encoding="utf-8")


def test_the_baselines_of_the_document_are_those_of_the_kept_comparison():
    kept = json.loads((HOUSE / "benchmarks" / "results" / "compare_fashion_mnist.json").read_text("utf-8"))
    text = RESULTS.read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for row in kept["table"]["rows"]:
        found.setdefault(row["method"], []).append(f"{100 * row['accuracy']:.1f}")
    assert f"\n{kept['command']}\n" in text and len(found) == 6
    for method, cells in found.items():
        shown = "local (mean over clients)" if method == "local" else method
        assert f"| {shown} | {' | '.join(cells)} |" in text
