from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

MIB = 1 << 20


@pytest.fixture(scope="module")
def measure(load) -> ModuleType:
    return load("measure")


def test_memory_of_children_and_of_orphans_is_counted(measure: ModuleType) -> None:
    hold = "block = bytearray(b'x') * (60 << 20); import time; time.sleep(1.2)"
    # The middle process ends at once, so that the one which holds the memory is an orphan.
    middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}])"
    code = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {middle!r}])\ntime.sleep(1.2)\n"
    )
    done = measure.measure([sys.executable, "-c", code])
    assert done.status == 0
    assert done.peak_processes >= 2
    assert 60 * MIB < done.peak_pss <= done.peak_rss < 400 * MIB
    assert 1.2 <= done.seconds < 60


def test_the_last_line_of_output_is_the_result(measure: ModuleType) -> None:
    code = 'print(\'words\'); print(\'{"accuracy": 0.9, "epsilon": "inf"}\')'
    assert measure.measure([sys.executable, "-c", code]).result == {"accuracy": 0.9, "epsilon": "inf"}


@pytest.mark.parametrize("code", ["pass", "print('no json')", "print('[1]')"])
def test_output_without_an_object_has_no_result(measure: ModuleType, code: str) -> None:
    assert measure.measure([sys.executable, "-c", code]).result == {}


def test_a_failing_and_a_hanging_command_are_reported_as_such(measure: ModuleType) -> None:
    assert measure.measure([sys.executable, "-c", "raise SystemExit(3)"]).status == 3
    hanging = measure.measure([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
    assert hanging.status < 0
    assert hanging.seconds < 30


def test_the_summary_leaves_out_failed_runs_and_missing_numbers(measure: ModuleType) -> None:
    runs = [
        {"status": 0, "accuracy": 0.8, "epsilon": "inf", "wall_seconds": 1.0},
        {"status": 0, "accuracy": 0.9, "epsilon": "inf", "wall_seconds": 3.0},
        {"status": 1, "accuracy": None, "epsilon": None, "wall_seconds": 99.0},
    ]
    summary = measure.summarise(runs)
    assert summary["runs"] == 2
    assert summary["accuracy"]["mean"] == pytest.approx(0.85)
    assert summary["wall_seconds"]["max"] == 3.0
    assert "epsilon" not in summary


def test_a_result_file_says_what_ran_where_and_names_no_place(
    measure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure.shutil, "which", lambda *_, **__: None)
    results = tmp_path / "results"
    # `configs` knows neither --seed nor --out, so each run fails fast; the record must say so.
    status = measure.main(["sample", "--seeds", "4,5", "--results", str(results), "--", "configs"])
    assert status == 1
    text = (results / "sample.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["command"] == "mosaic-secure configs"
    assert [run["seed"] for run in record["runs"]] == [4, 5]
    assert all(run["status"] == 2 for run in record["runs"])
    assert record["hardware"]["cores"] >= 1
    assert record["versions"]["python"]
    assert str(tmp_path) not in text
