from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from mosaic_secure.errors import UserError
from mosaic_secure.protocol.log import SERVER, MessageLog, Party
from mosaic_secure.protocol.messages import AuthorityClose
from mosaic_secure.runs.directory import RunDirectory, default_run_path
from mosaic_secure.runs.verify import verify


@pytest.fixture
def run(tmp_path: Path):
    with RunDirectory.create(tmp_path / "run") as directory:
        yield directory


def seal_small_run(path: Path) -> Path:
    with RunDirectory.create(path) as run:
        run.write_json("privacy.json", {"epsilon": 4.0})
        run.write_tensors("experts/a.safetensors", {"w": np.ones(3, np.float32)})
        run.append_jsonl("metrics.jsonl", {"accuracy": 0.9})
        run.save_stage("gating", {"w": np.ones(3)}, {})
        run.seal({"result": {"epsilon": math.inf}})
    return path


def test_json_carries_a_schema_version_and_infinity_as_a_word(run: RunDirectory):
    path = run.write_json("privacy.json", {"epsilon": math.inf, "rows": (np.float32(1.5), np.int64(2))})
    assert json.loads(path.read_text()) == {"schema_version": 1, "epsilon": "inf", "rows": [1.5, 2]}
    assert run.read_json("privacy.json")["epsilon"] == "inf"


def test_json_refuses_nan_and_leaves_the_old_file(run: RunDirectory):
    run.write_json("metrics.json", {"accuracy": None})
    with pytest.raises(ValueError, match="NaN"):
        run.write_json("metrics.json", {"accuracy": math.nan})
    assert run.read_json("metrics.json")["accuracy"] is None


def test_tensors_come_back_with_shape_and_type(run: RunDirectory):
    tensors = {
        "scalar": torch.tensor(3.0),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "empty": np.zeros((0, 2), np.float32),
    }
    run.write_tensors("experts/x.safetensors", tensors)
    back = run.read_tensors("experts/x.safetensors")
    assert back["scalar"].shape == () and back["scalar"] == 3
    assert np.array_equal(back["transposed"], tensors["transposed"])
    assert back["empty"].shape == (0, 2) and back["empty"].dtype == np.float32


def test_same_tensors_give_the_same_bytes(run: RunDirectory):
    first = run.write_tensors("a", {"x": np.ones(2), "y": np.zeros(3)}).read_bytes()
    assert first == run.write_tensors("b", {"y": np.zeros(3), "x": np.ones(2)}).read_bytes()


def test_everything_is_for_the_owner_only(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in path.rglob("*") if entry.is_file()}
    assert modes == {0o600}


def test_a_directory_in_use_is_not_taken_over(run: RunDirectory):
    with pytest.raises(UserError, match="already holds a run|another process"):
        RunDirectory.create(run.path)
    with pytest.raises(UserError, match="another process"):
        RunDirectory.create(run.path, resume=True)


def test_a_directory_that_is_not_empty_is_refused_and_untouched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(UserError, match="thesis.tex"):
            RunDirectory.create(tmp_path, resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_existing_run_needs_resume(tmp_path: Path):
    RunDirectory.create(tmp_path / "run").close()
    with pytest.raises(UserError, match="--resume"):
        RunDirectory.create(tmp_path / "run")


def test_nothing_to_resume(tmp_path: Path):
    with pytest.raises(UserError, match="nothing to resume"):
        RunDirectory.create(tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()


def test_a_file_or_a_forbidden_place_as_out(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot use"):
            RunDirectory.create(path)


def test_resume_keeps_the_run_id_and_checks_the_configuration(tmp_path: Path):
    first = {"privacy": {"epsilon": 4.0}, "seed": 0}
    with RunDirectory.create(tmp_path / "run", config=first, config_hash="aa") as run:
        run_id = run.run_id
    with RunDirectory.create(tmp_path / "run", resume=True, config=first, config_hash="aa") as run:
        assert run.run_id == run_id
    other = {"privacy": {"epsilon": 2.0}, "seed": 0}
    with pytest.raises(UserError, match=r"privacy\.epsilon was 4\.0, now 2\.0"):
        RunDirectory.create(tmp_path / "run", resume=True, config=other, config_hash="bb")


def test_stage_comes_back_whole(run: RunDirectory):
    assert run.load_stage("gating") is None
    run.save_stage("gating", {"w": torch.arange(4.0)}, {"step": 3, "epsilon": math.inf})
    tensors, meta = run.load_stage("gating")
    assert tensors["w"].tolist() == [0, 1, 2, 3] and meta == {"step": 3, "epsilon": "inf"}


def test_every_damage_to_a_checkpoint_is_found_and_named(run: RunDirectory):
    run.save_stage("gating", {"w": np.arange(3.0)}, {"step": 3})
    path = run.path / "checkpoints" / "gating.stage"
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in (0, 10, len(whole) - 1)]
    for position in range(0, len(whole), 7):
        damaged.append(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"gating\.stage"):
            run.load_stage("gating")
    path.write_bytes(whole)
    (run.path / "checkpoints" / "other.stage").write_bytes(whole)
    with pytest.raises(UserError, match=r"other\.stage"):
        run.load_stage("other")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "manifest.json", "checkpoints/x"])
def test_names_stay_inside_the_run(run: RunDirectory, name: str):
    with pytest.raises(ValueError):
        run.write_bytes(name, b"x")


def test_torn_journal_line_and_half_written_files_are_healed_on_resume(tmp_path: Path):
    with RunDirectory.create(tmp_path / "run") as run:
        run.append_jsonl("messages.jsonl", {"stage": "enrol"})
    with (tmp_path / "run" / "messages.jsonl").open("ab") as stream:
        stream.write(b'{"stage": "proto')
    (tmp_path / "run" / ".privacy.json.00.part").write_text("{")
    with RunDirectory.create(tmp_path / "run", resume=True) as run:
        run.append_jsonl("messages.jsonl", {"stage": "prototypes"})
        lines = [json.loads(line) for line in run.read_bytes("messages.jsonl").splitlines()]
    assert [line["stage"] for line in lines] == ["enrol", "prototypes"]
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_sealed_run_verifies_and_refuses_change(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    report = verify(path)
    assert report.passed and report.files == 3
    assert not (path / "checkpoints").exists()
    with RunDirectory.create(path, resume=True) as run:
        assert run.sealed and run.manifest["result"] == {"epsilon": "inf"}
        for change in (
            lambda: run.write_json("privacy.json", {}),
            lambda: run.append_jsonl("metrics.jsonl", {}),
            lambda: run.save_stage("x", {}, {}),
            lambda: run.seal({}),
        ):
            with pytest.raises(UserError, match="sealed"):
                change()
    assert verify(path).passed


def test_killed_between_sealing_and_cleaning_up(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    (path / "checkpoints").mkdir()
    assert verify(path).problems == ("checkpoints: left over; train --resume removes it",)
    RunDirectory.create(path, resume=True).close()
    assert verify(path).passed


def test_verify_names_every_change(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    tensor = path / "experts" / "a.safetensors"
    data = bytearray(tensor.read_bytes())
    data[-1] ^= 1
    tensor.write_bytes(data)
    (path / "metrics.jsonl").unlink()
    (path / "extra").write_text("x")
    (path / "link").symlink_to(path / "extra")
    with (path / "privacy.json").open("a") as stream:
        stream.write(" ")
    named = {problem.split(":")[0]: problem for problem in verify(path).problems}
    assert set(named) == {"experts/a.safetensors", "metrics.jsonl", "extra", "link", "privacy.json"}
    assert "SHA-256" in named["experts/a.safetensors"] and "missing" in named["metrics.jsonl"]
    with pytest.raises(UserError, match="damaged"):
        RunDirectory.open(path).read_tensors("experts/a.safetensors")


def test_a_changed_manifest_does_not_pass(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"epsilon": "inf"', '"epsilon": 1.0'))
    with pytest.raises(UserError, match="manifest.json is damaged"):
        verify(path)


def test_an_unfinished_run_and_no_run(tmp_path: Path):
    RunDirectory.create(tmp_path / "run").close()
    assert not verify(tmp_path / "run").passed
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="run"):
            verify(path)


def test_an_audit_adds_a_folder_without_touching_the_run(tmp_path: Path):
    path = seal_small_run(tmp_path / "run")
    with RunDirectory.create(path / "audits" / "one") as audit:
        audit.write_json("result.json", {"verdict": "pass"})
        audit.seal({})
    report = verify(path)
    assert report.passed and report.audits == 1 and report.files == 4
    (path / "audits" / "one" / "result.json").write_text("{}")
    assert [problem.split(":")[0] for problem in verify(path).problems] == ["audits/one/result.json"]


def test_opened_for_reading_only(tmp_path: Path):
    RunDirectory.create(tmp_path / "run").close()
    run = RunDirectory.open(tmp_path / "run")
    with pytest.raises(UserError, match="reading only"):
        run.write_json("x.json", {})
    with pytest.raises(UserError, match="not finished"):
        run.read_json("model.json")


def test_default_names_are_fresh(tmp_path: Path):
    names = {default_run_path(tmp_path) for _ in range(5)}
    assert all(path.parent == tmp_path and not path.exists() for path in names) and len(names) == 5


def test_killed_writer_leaves_whole_files_and_frees_the_lock(tmp_path: Path):
    script = textwrap.dedent(
        """
        import sys, itertools
        import numpy as np
        from mosaic_secure.runs.directory import RunDirectory
        run = RunDirectory.create(sys.argv[1])
        for step in itertools.count():
            run.save_stage("step", {"w": np.full(20_000, step)}, {"step": step})
            run.append_jsonl("metrics.jsonl", {"step": step})
            if step == 20: print("ready", flush=True)
        """
    )
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        cwd=root,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with RunDirectory.create(tmp_path / "run", resume=True) as run:
        tensors, meta = run.load_stage("step")
        assert meta["step"] >= 20 and (tensors["w"] == meta["step"]).all()
        run.seal({})
    assert verify(tmp_path / "run").passed


def test_verify_walks_the_messages(tmp_path: Path):
    with RunDirectory.create(tmp_path / "good") as run:
        log = MessageLog(run.path / "messages.jsonl")
        log.record("seal", AuthorityClose(run_id="r"), SERVER, Party("authority", "authority"))
        run.seal({})
    assert verify(tmp_path / "good").passed and verify(tmp_path / "good").messages == 1
    with RunDirectory.create(tmp_path / "bad") as run:
        line = (tmp_path / "good" / "messages.jsonl").read_text()
        run.write_bytes("messages.jsonl", line.replace('"run_id"', '"records"').encode())
        run.seal({})
    (problem,) = verify(tmp_path / "bad").problems
    assert problem.startswith("messages.jsonl: line 1")


def test_a_run_killed_while_it_wrote_its_first_file_begins_anew(tmp_path: Path):
    (tmp_path / ".manifest.json.0a1b2c.part").write_bytes(b'{"run_')
    with RunDirectory.create(tmp_path) as run:
        assert sorted(path.name for path in run.path.iterdir()) == ["manifest.json"]
    (tmp_path / "manifest.json").rename(tmp_path / ".manifest.json.0a1b2c.part")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        RunDirectory.create(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
