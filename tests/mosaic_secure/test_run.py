from __future__ import annotations

import json
import math
import shutil
import stat
from pathlib import Path

import numpy as np

import mosaic_secure
from mosaic_secure.config import config_hash
from mosaic_secure.runs.artefacts import CLASSIFIERS, read_collection
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.resume import stored_config

from .tiny import CLIENTS, command, tiny_config, tiny_options, tiny_train


def test_the_line_of_json_says_what_was_trained_and_at_what_price(finished):
    line = finished.outcome.json
    assert line["run"] == str(finished.path)
    assert (line["dataset"], line["clients"], line["device"]) == ("digits", 3, "cpu")
    assert line["delta"] == 1e-4 and line["trust"] == "local"
    assert 0 <= line["accuracy"] <= 1 and line["seconds"] > 0
    assert 0.99 * 4 <= line["epsilon"] <= 4


def test_a_finished_run_is_sealed_whole_and_passes_verify(finished):
    names = {file.relative_to(finished.path).as_posix() for file in finished.path.rglob("*")}
    assert names >= {
        "manifest.json", "privacy.json", "messages.jsonl", "metrics.jsonl", "global_model.safetensors",
        "classifiers", "experts", "generators", "ledgers.json", "membership.npz", "partition.png",
    }  # fmt: skip
    assert not [name for name in names if name.startswith("checkpoints") or ".part" in name]
    checked = command("verify", finished.path, "--json")
    assert checked.status == 0 and checked.json["verdict"] == "pass", checked.out
    manifest = json.loads((finished.path / "manifest.json").read_bytes())
    assert manifest["sealed"] and manifest["config_hash"] == config_hash(tiny_config())
    assert config_hash(stored_config(finished.path)) == manifest["config_hash"]


def test_each_clients_classifier_is_kept_as_it_was_released(finished):
    """The bytes of the run's directory against those that passed on the wire."""
    run = RunDirectory.open(finished.path)
    members = read_collection(run, CLASSIFIERS)
    assert tuple(member.name for member in members) == CLIENTS
    for member in members:
        sent = [passed.data for passed in finished.wire.passed if passed.party == member.name]
        assert any(all(value.tobytes() in data for value in member.tensors.values()) for data in sent)
        assert member.spec.architecture == "mlp"


def test_a_sample_of_the_synthetic_records_is_kept_with_a_picture(finished):
    with np.load(finished.path / "synthetic" / "sample.npz", allow_pickle=False) as kept:
        images, labels = kept["images"], kept["labels"]
    assert images.dtype == np.uint8 and images.shape == (len(labels), 1, 8, 8) and 0 < len(labels) <= 1000
    assert set(labels) == set(range(10)) and images.std() > 0
    assert (finished.path / "synthetic" / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_every_file_of_a_run_and_of_its_parties_is_for_the_owner_only(finished):
    for top in (finished.path, finished.ledgers):
        for path in (top, *top.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_file_that_is_changed_after_sealing_fails_verify(finished, tmp_path: Path):
    copy = shutil.copytree(finished.path, tmp_path / "copy")
    lines = (copy / "messages.jsonl").read_text().replace('"dst_role":"server"', '"dst_role":"client"', 1)
    (copy / "messages.jsonl").write_text(lines)
    checked = command("verify", copy, "--json")
    assert checked.status == 3
    assert any("must not go" in problem for problem in checked.json["problems"])


def test_the_model_of_a_run_can_be_loaded_and_predicts(finished, tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    predictor = mosaic_secure.load(finished.path)
    labels = predictor.predict(images)
    assert labels.shape == (4,) and set(labels.tolist()) <= set(range(10))
    shown = command("predict", finished.path, tmp_path / "images.npy", "--json")
    assert [row["label"] for row in shown.json["predictions"]] == labels.tolist()


def test_the_generators_of_a_run_draw_and_its_model_is_exported(finished, tmp_path: Path):
    drawn = command("synth", finished.path, "--count", 6, "--to", tmp_path / "drawn", "--json")
    assert drawn.status == 0 and drawn.json["count"] == 6, drawn.err
    target = tmp_path / "model.pt2"
    made = command("export", finished.path, "--format", "torch-export", "--to", target, "--json")
    assert made.status == 0 and made.json["max_difference"] < 1e-5, made.err


def test_resuming_a_sealed_run_tells_its_result_and_changes_nothing(finished):
    before = (finished.path / "manifest.json").read_bytes()
    places = ["--out", finished.path, "--ledger-dir", finished.ledgers]
    again = command("train", "--resume", *places, "--json")
    assert again.status == 0 and again.json == finished.outcome.json, again.err
    assert (finished.path / "manifest.json").read_bytes() == before


def test_metrics_hold_the_accuracies_that_the_line_tells(finished):
    rows = [json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().splitlines()]
    values = {row["of"]: row["value"] for row in rows if row["metric"] == "accuracy"}
    assert values["global"] == finished.outcome.json["accuracy"]
    assert values["teacher"] == finished.outcome.json["teacher_accuracy"]
    told = finished.outcome.json
    for metric, field in (("balanced accuracy", "balanced_accuracy"), ("auc", "auc")):
        values = {row["of"]: row["value"] for row in rows if row["metric"] == metric}
        assert values == {"global": told[field], "teacher": told[f"teacher_{field}"]}


def check_statement(path: Path, epsilon: float, trust: str) -> dict:
    statement = json.loads((path / "privacy.json").read_bytes())
    assert statement["schema_version"] == 1 and statement["target_epsilon"] == epsilon
    assert 0.99 * epsilon <= statement["epsilon"] <= epsilon
    for name in CLIENTS:
        assert 0.99 * epsilon <= statement["spent"][name] <= epsilon
    assert statement["trust"] == trust
    return statement


def test_the_privacy_statement_of_local_trust(finished):
    statement = check_statement(finished.path, 4.0, "local")
    text = json.dumps(statement)
    for release in ("counts", "centre", "moments", "classifier", "generator"):
        assert f'"{release}"' in text
    assert {row["role"] for row in statement["trust_map"]} == {"server", "client", "authority"}


def test_the_statement_tells_how_sums_were_encrypted(finished):
    told = json.loads((finished.path / "privacy.json").read_bytes())["encryption"]
    assert told["security_bits"] == 128 and "one run" in told["key_lifetime"]
    assert told["rounding_step"] >= 2**10 * told["decoding_error_at_most"]


def test_distributed_trust_spends_the_same_budget(tmp_path: Path):
    outcome = tiny_train(tmp_path, "--trust", "distributed", "--epsilon", "4")
    assert outcome.status == 0, outcome.err
    assert 0.99 * 4 <= outcome.json["epsilon"] <= 4 and outcome.json["trust"] == "distributed"
    check_statement(tmp_path / "run", 4.0, "distributed")
    assert command("verify", tmp_path / "run").status == 0


def test_infinite_epsilon_warns_and_the_statement_says_so(tmp_path: Path):
    outcome = tiny_train(tmp_path, "--epsilon", "inf")
    assert outcome.status == 0, outcome.err
    assert "WARNING" in outcome.err and "nothing is protected" in outcome.err
    assert outcome.json["epsilon"] == "inf"
    statement = json.loads((tmp_path / "run" / "privacy.json").read_bytes())
    assert statement["epsilon"] == "inf" and set(statement["spent"].values()) == {"inf"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_bytes())
    assert manifest["result"]["epsilon"] == "inf"
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    assert command("train", "--resume", *places, "--json").json["epsilon"] == "inf"


def test_what_was_spent_is_what_the_ledgers_of_the_clients_say(finished):
    shown = command("ledger", "show", finished.ledgers, "--json")
    assert shown.status == 0, shown.err
    mine = {row["party"]: row for row in shown.json["ledgers"]}
    assert set(mine) == set(CLIENTS)
    for row in mine.values():
        assert math.isclose(row["lifetime_epsilon"], finished.outcome.json["epsilon"], rel_tol=1e-3)
    checked = command("ledger", "verify", finished.ledgers, "--json")
    assert checked.status == 0 and checked.json["verdict"] == "pass", checked.out


def test_the_place_of_ledgers_is_taken_from_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MOSAIC_LEDGER_DIR", str(tmp_path / "elsewhere"))
    outcome = command("train", *tiny_options(), "--epsilon", "inf", "--out", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "elsewhere" / "digits-3" / "client-0").is_dir()
