from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mosaic_secure


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    (folder / "inner").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    np.save(folder / "a.npy", images)
    np.savez(folder / "b.npz", images=images, labels=np.zeros(3))
    Image.fromarray(images[0]).save(folder / "inner" / "c.png")
    Image.fromarray(images[1]).resize((20, 20)).save(folder / "inner" / "d.JPG", "JPEG")
    return folder


def test_predict_reads_pictures_arrays_and_folders(mosaic, small_run: Path, inputs: Path):
    outcome = mosaic("predict", small_run, inputs, "--json")
    assert outcome.status == 0, outcome.err
    rows = outcome.json["predictions"]
    places = [(Path(row["path"]).name, row["index"]) for row in rows]
    assert places == [(name, i) for name in ("a.npy", "b.npz") for i in range(3)] + [
        ("c.png", 0),
        ("d.JPG", 0),
    ]
    expected = mosaic_secure.load(small_run).predict_proba(np.load(inputs / "a.npy"))
    assert [row["label"] for row in rows[:3]] == expected.argmax(1).tolist()
    assert [row["probability"] for row in rows[:3]] == pytest.approx(expected.max(1), abs=1e-5)
    assert rows[0]["class"] in ("cat", "dog", "owl") and rows[6]["label"] == rows[0]["label"]
    assert f"{inputs}/a.npy[1]\t" in outcome.out


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("x.txt", b"hello", "x.txt"),
        ("x.png", b"hello", "not a readable picture"),
        ("x.npy", b"hello", "not a readable numpy file"),
        ("x.npz", b"PK\x03\x04", "not a readable numpy file"),
        ("x.png", None, "no such file"),
    ],
)
def test_predict_names_the_file_that_it_cannot_read(mosaic, small_run, tmp_path, name, content, named):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refusal = mosaic("predict", small_run, tmp_path / name).refusal
    assert named in refusal and name in refusal


def test_predict_refuses_objects_wrong_shapes_and_empty_folders(mosaic, small_run: Path, tmp_path: Path):
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    assert "object arrays" in mosaic("predict", small_run, tmp_path / "object.npy").refusal
    np.save(tmp_path / "shape.npy", np.zeros((2, 9, 9), np.uint8))
    assert "[N, 1, 8, 8]" in mosaic("predict", small_run, tmp_path / "shape.npy").refusal
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    assert "expected one named images" in mosaic("predict", small_run, tmp_path / "two.npz").refusal
    (tmp_path / "empty").mkdir()
    assert "holds no image" in mosaic("predict", small_run, tmp_path / "empty").refusal


@pytest.mark.parametrize(
    "command", [["predict", "x.png"], ["verify"], ["synth", "--count", "1", "--to", "x"]]
)
def test_what_is_no_run_is_refused(mosaic, tmp_path: Path, command: list[str]):
    for path in (tmp_path, tmp_path / "nowhere"):
        assert str(path) in mosaic(command[0], path, *command[1:]).refusal


def test_export(mosaic, small_run: Path, tmp_path: Path):
    target = tmp_path / "model.pt2"
    outcome = mosaic("export", small_run, "--format", "torch-export", "--to", target, "--json")
    assert outcome.status == 0, outcome.err
    assert target.stat().st_size == outcome.json["bytes"] and outcome.json["max_difference"] < 1e-5
    assert "onnx, torch-export" in mosaic("export", small_run, "--format", "pt", "--to", target).refusal


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs mosaic-secure[onnx]")
def test_export_onnx_is_quiet(mosaic, small_run: Path, tmp_path: Path):
    outcome = mosaic("export", small_run, "--format", "onnx", "--to", tmp_path / "model.onnx")
    assert outcome.status == 0 and outcome.err == "" and outcome.out.count("\n") == 1


def test_synth(mosaic, write_small_run, tmp_path: Path):
    run = write_small_run(tmp_path / "run", generators=True)
    outcome = mosaic("synth", run, "--count", 12, "--to", tmp_path / "out", "--seed", 3, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["count"] == 12 and Path(outcome.json["png"]).is_file()
    with np.load(outcome.json["npz"]) as content:
        assert content["images"].shape == (12, 1, 8, 8)
    assert "not empty" in mosaic("synth", run, "--count", 12, "--to", tmp_path / "out").refusal
    assert "count 0" in mosaic("synth", run, "--count", 0, "--to", tmp_path / "new").refusal


def test_synth_without_a_place_takes_a_fresh_folder_here(mosaic, write_small_run, tmp_path, monkeypatch):
    run = write_small_run(tmp_path / "runs" / "a.b", generators=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.b-synthetic").mkdir()  # empty, and so good enough
    for folder in ("a.b-synthetic", "a.b-synthetic-2", "a.b-synthetic-3"):
        outcome = mosaic("synth", "runs/a.b", "--count", 3)
        assert outcome.status == 0, outcome.err
        assert f"{folder}/synthetic.npz, {folder}/grid.png" in outcome.out
        assert {file.name for file in (tmp_path / folder).iterdir()} == {"synthetic.npz", "grid.png"}
    assert mosaic("verify", run).status == 0


def test_export_without_a_place_writes_and_replaces_a_file_here(mosaic, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.pt2").write_bytes(b"old")
    outcome = mosaic("export", small_run, "--format", "torch-export", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["path"] == "run.pt2" and outcome.out.startswith("run.pt2: ")
    assert (tmp_path / "run.pt2").stat().st_size == outcome.json["bytes"] > 3
    assert "onnx, torch-export" in mosaic("export", small_run, "--format", "pt").refusal


def test_results_never_land_inside_the_run(mosaic, write_small_run, tmp_path: Path, monkeypatch):
    run = write_small_run(tmp_path / "run", generators=True)
    monkeypatch.chdir(run)
    for command in (["synth", ".", "--count", 3], ["export", ".", "--format", "torch-export"]):
        outcome = mosaic(*command)
        assert outcome.status == 0, outcome.err
    assert (tmp_path / "run-synthetic" / "grid.png").is_file() and (tmp_path / "run.pt2").is_file()
    assert mosaic("verify", run).status == 0


def test_verify_passes_and_fails_with_status_3(mosaic, small_run: Path, tmp_path: Path):
    outcome = mosaic("verify", small_run, "--json")
    assert outcome.status == 0 and outcome.json["verdict"] == "pass" and outcome.json["files"] == 2
    copy = shutil.copytree(small_run, tmp_path / "copy")
    (copy / "model.json").write_text("{}")
    outcome = mosaic("verify", copy, "--json")
    assert outcome.status == 3 and outcome.json["verdict"] == "fail"
    assert outcome.out.startswith("model.json: ")
