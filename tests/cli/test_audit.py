"""`mosaic-secure audit` as its users meet it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from attacks.membership import shadows
from mosaic_secure.audit import request, run_audit, shadow_pipelines
from mosaic_secure.errors import UserError
from mosaic_secure.report import pdf
from mosaic_secure.runs.directory import RunDirectory
from tests.mosaic_secure.tiny import command, tiny_train

pytestmark = pytest.mark.usefixtures("quick_inversion")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("audited")
    assert tiny_train(place, "--epsilon", "4").status == 0
    return place / "run"


@pytest.fixture(scope="module")
def repeatable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rehearsals have the same noise each time, so that a test of it passes or fails for good."""
    place = tmp_path_factory.mktemp("repeatable")
    assert tiny_train(place, "--epsilon", "4", **{"privacy.insecure_reproducible_noise": True}).status == 0
    return place / "run"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def test_an_audit_describes_a_run_and_gives_no_verdict(copied: Path):
    outcome = command("audit", copied, "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert found["verdict"] == "none" and found["epsilon_lower_bound"] is None
    assert found["epsilon_claimed"] == pytest.approx(4.0, rel=0.02)
    assert {check["passed"] for check in found["checks"]} == {True, None}
    (model,) = found["membership"].values()
    assert model["members"] == 240 and model["caught"][0]["rate"] is None  # too few for one in a thousand
    assert model["caught"][2]["rate"]["value"] <= model["caught"][2]["at_most"]
    assert set(found["synthetic"]) == {
        "density ratio",
        "density ratio in features",
        "nearness",
        "nearest-neighbour ratio",
    }
    sums = [row for row in found["received"] if row["kind"] == "ciphertext"]
    assert {(row["role"], row["source"]) for row in sums} == {("server", "client"), ("authority", "server")}
    assert all(row["fields"] == ["contribution"] or row["bytes"] > 100_000 for row in sums)
    assert "describes, no verdict" in outcome.out and "not tested:\n- LiRA" in outcome.out
    folder = Path(found["report"]).parent
    assert sorted(path.name for path in folder.iterdir()) == ["audit.json", "manifest.json", "report.html"]
    assert [attack["name"] for attack in found["inversion"]["attacks"]][:2] == ["pixels", "generators"]
    written = json.loads((folder / "audit.json").read_text())
    assert written["sentence"] == found["sentence"] and written["schema_version"] == 2
    checked = command("verify", copied)
    assert checked.status == 0 and "1 audits" in checked.out
    (folder / "audit.json").write_text("{}")
    assert command("verify", copied).status == 3


def test_a_run_without_noise_is_refuted_by_a_rehearsal(tmp_path: Path):
    assert tiny_train(tmp_path, "--epsilon", "inf").status == 0
    run = tmp_path / "run"
    unnamed = command("audit", run)
    assert "--claim inf: the run has none; name the one to test" in unnamed.refusal
    few = command("audit", run, "--claim", "4", "--retrain", "--canaries", "100")
    assert "they could not refute epsilon 4; use --canaries 500" in few.refusal
    assert "no number of canaries" in command("audit", run, "--claim", "30", "--retrain").refusal
    outcome = command("audit", run, "--claim", "4", "--retrain", "--json")
    assert outcome.status == 3, outcome.err
    found = outcome.json
    assert found["verdict"] == "fail" and found["epsilon_lower_bound"] > 4.0
    assert found["canaries"][0]["guesses"] == {"canaries": 500, "made": 400, "correct": 400}
    assert list(found["p_values"]) == ["canaries in the prototype sums"]  # no noise was promised
    assert found["epsilon_provable_at_most"] == pytest.approx(found["epsilon_lower_bound"])
    assert found["checks"][-1]["name"] == "attempts to decrypt (fresh run)" and found["checks"][-1]["passed"]
    assert found["p_values"]["canaries in the prototype sums"] <= 0.01
    assert "The claim of epsilon 4 is refuted" in outcome.out
    assert not list(run.rglob("rehearsal"))  # neither its records nor its ledgers stay


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--claim", "-1"), "--claim -1: must be finite and > 0"),
        (("--claim", "nan"), "--claim nan: must be finite and > 0"),
        (("--canaries", "3"), "--canaries 3: must be from 10 to 5000"),
        (("--seed", "-1"), "--seed -1: must be 0 or more"),
        (("--shadows", "7"), "--shadows 7: must be an even number from 8 to 4096"),
        (("--pipelines", "3"), "--pipelines 3: must be 0, or an even number from 4 to 4096"),
        (("--out", "mine"), "--out: is for private data"),
        (("--fpr", "0.2"), "--fpr 0.2: must be one of 0.001, 0.01, 0.1"),
        (("--fpr", "0.001"), "needs 1000 records that nobody trained on, and there are 180"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run: Path, options: tuple[str, ...], says: str):
    assert says in command("audit", run, *options).refusal
    assert not (run / "audits").exists()


def test_what_is_no_sealed_run_is_refused(tmp_path: Path, copied: Path):
    assert "is not a directory" in command("audit", tmp_path / "nothing").refusal
    with RunDirectory.create(tmp_path / "open"):
        pass
    assert "not sealed" in command("audit", tmp_path / "open").refusal
    (copied / "membership.npz").unlink()
    assert "has no membership.npz" in command("audit", copied).refusal
    assert not (copied / "audits").exists()


def test_a_run_on_private_data_is_refused_before_anything_is_looked_at(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its numbers would be statistics of private records, in a folder that is not its clients'."""
    private = SimpleNamespace(is_public=False, method="mosaic", no_noise=False)
    monkeypatch.setattr(run_audit, "run_config", lambda *_: private)
    for reads in ("public_records", "private_records"):
        monkeypatch.setattr(run_audit, reads, lambda *_, **__: pytest.fail("records were read"))
    assert "--data: this run's data are private" in command("audit", copied).refusal
    given = ["--data", tmp_path, "--others", tmp_path]
    assert "--out: this run's data are private" in command("audit", copied, *given).refusal
    inside = command("audit", copied, *given, "--out", copied / "mine")
    assert "lies in the run, which others may see" in inside.refusal
    given += ["--out", tmp_path / "mine"]
    assert "name them by --ledger-dir" in command("audit", copied, *given, "--retrain").refusal
    assert (
        "--pipelines: trains on records again" in command("audit", copied, *given, "--pipelines", 8).refusal
    )
    assert not (tmp_path / "mine").exists()
    assert not (copied / "audits").exists()


def test_a_damaged_artefact_is_named(copied: Path):
    weights = copied / "global_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "global_model.safetensors is damaged" in command("audit", copied).refusal
    assert not (copied / "audits").exists()


def test_an_honest_run_stands_and_the_noise_of_its_sums_too(repeatable: Path):
    outcome = command("audit", repeatable, "--retrain", "--seed", "1", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    # Nothing fell, and yet nothing stands: the noise of this run can be repeated.
    assert found["verdict"] == "none" and "follows from its seed" in found["sentence"]
    assert found["epsilon_lower_bound"] < found["epsilon_claimed"]
    assert [check["name"] for check in found["checks"]][-2:] == [
        "the fresh run's messages",
        "attempts to decrypt (fresh run)",
    ]
    assert set(found["p_values"]) == {
        "canaries in the prototype sums",
        "canaries against the planned noise of the sums",
        "canaries in DP-SGD of a classifier",
    }
    assert found["request"]["seed"] == 1 and found["canaries"][1]["guesses"]["made"] == 124


@pytest.mark.slow
def test_what_so_many_canaries_cannot_refute_is_not_called_tested(repeatable: Path):
    outcome = command("audit", repeatable, "--retrain", "--canaries", "60", "--seed", "1", "--json")
    assert outcome.status == 0, outcome.err
    assert "canaries in the prototype sums" not in outcome.json["p_values"]
    said = "by canaries in the prototype sums: 48 guesses cannot refute it"
    assert any(said in line for line in outcome.json["not_tested"])


@pytest.mark.slow
def test_shadow_models_and_federations_are_part_of_it_and_go_on_where_they_were(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    given = ["audit", copied, "--classifiers", "--shadows", "8", "--pipelines", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(shadow_pipelines, "attack_pipelines", stop)
        stopped = command(*given)
    assert stopped.status == 130 and "finished shadow models are kept" in stopped.err
    (kept,) = (copied / "audits").iterdir()
    models = {path.name for path in kept.glob("shadows-*")}
    assert kept.name == ".shadows" and models and command("verify", copied).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(shadows, "_Job", lambda *_: pytest.fail("a finished shadow model was trained again"))
        outcome = command(*given, "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert found["request"]["seed"] is not None and not kept.exists()
    assert set(found["classifiers"]) == {"client-0", "client-1", "client-2"}
    assert set(found["classifiers"]["client-0"]["attacks"]) >= {"RMIA", "loss threshold"}
    assert found["pipelines"]["pipelines"] == 4 and found["pipelines"]["synthetic"]
    assert "held against 4 shadow federations" in outcome.out
    assert not [line for line in found["not_tested"] if "LiRA" in line]


def test_a_page_that_cannot_be_printed_costs_no_audit(copied: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise UserError("no PDF could be printed (it is out of paper)")

    monkeypatch.setattr(request, "check_printer", lambda: None)
    monkeypatch.setattr(pdf, "write_pdf", fail)
    outcome = command("audit", copied, "--pdf", "--json")
    assert outcome.status == 0 and "out of paper" in outcome.err
    assert Path(outcome.json["report"]).exists() and command("verify", copied).status == 0


def test_a_run_without_a_global_model_is_attacked_at_its_classifiers(tmp_path: Path):
    assert tiny_train(tmp_path, "--epsilon", "4", "--method", "local").status == 0
    outcome = command("audit", tmp_path / "run", "--shadows", "8", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert found["membership"] == {} and len(found["classifiers"]) == 3
    assert found["inversion"]["left_out"] == ["Method 'local' has no global model to invert."]
    assert "--retrain" not in outcome.out + Path(found["report"]).read_text()
    assert "has none" in command("audit", tmp_path / "run", "--retrain").refusal


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_a_killed_audit_left_is_no_damage_and_goes(copied: Path):
    left = copied / "audits" / ".20260101-000000-abcd"
    (left / "rehearsal" / "ledgers").mkdir(parents=True)
    assert command("verify", copied).status == 0
    assert command("audit", copied).status == 0
    assert not left.exists() and len(list((copied / "audits").iterdir())) == 1


def test_an_interrupted_audit_leaves_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_audit, "public_records", stop)
    outcome = command("audit", copied)
    assert outcome.status == 130 and "nothing of this audit is kept" in outcome.err
    assert not (copied / "audits").exists()
    assert command("verify", copied).status == 0
