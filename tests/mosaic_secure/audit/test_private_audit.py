"""An audit of a run on private images: made where they are, kept from the run, charged where it trains."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..tiny import Outcome, command

CLASSES = ("healthy", "ill")
CLIENTS = ("berlin", "lyon", "oslo")
OPTIONS = {
    "data.class_names": ",".join(CLASSES),
    "data.declared_records": 60,
    "data.population": "patients",
    "data.image_size": 8,
    "data.channels": 1,
    "clients.count": 3,
    "clients.architectures": "mlp",
    "partition.min_records": 5,
    "prototypes.encoder": "fourier",
    "prototypes.dim": 16,
    "prototypes.image_size": 4,
    "prototypes.rounds": 1,
    "prototypes.gradient_share": 0.3,
    "classifier.steps": 3,
    "generator.steps": 2,
    "generator.warmup": 1,
    "generator.batch": 8,
    "generator.latent_dim": 4,
    "gate.steps": 3,
    "distill.steps": 4,
    "distill.synthetic_pool": 64,
    "engine.device": "cpu",
    "engine.workers": 0,
}

pytestmark = pytest.mark.usefixtures("quick_inversion")


def write(top: Path, count: int, stream: np.random.Generator) -> None:
    for name in CLASSES:
        (top / name).mkdir(parents=True)
        for index in range(count):
            pixels = stream.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(top / name / f"{index}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``images``, ``others``, a sealed ``run`` and its ``ledgers``, in which there is room for one more."""
    place = tmp_path_factory.mktemp("private")
    stream = np.random.default_rng(1)
    for client in CLIENTS:
        write(place / "images" / client, 29, stream)
    write(place / "others", 31, stream)
    fields = OPTIONS | {"data.path": place / "images", "privacy.max_epsilon_lifetime": 8.0}
    given = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    places = ["--out", place / "run", "--ledger-dir", place / "ledgers"]
    outcome = command("train", "--config", "folder", "--delta", "1e-5", *given, *places)
    assert outcome.status == 0, outcome.err
    return place


def audit(place: Path, *more: object) -> Outcome:
    given = ["--data", place / "images", "--others", place / "others", "--out", place / "mine"]
    return command("audit", place / "run", *given, *more, "--json")


def test_it_is_left_with_the_clients_and_not_in_the_run(place: Path):
    before = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")}
    outcome = audit(place)
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert found["client_confidential"] is True and found["verdict"] == "none" and not found["charged"]
    (model,) = found["membership"].values()
    assert model["members"] == 3 * 2 * 29 and model["others"] == 31
    report = Path(found["report"])
    assert report.read_text().count("data:image/png") and "nearest training records" not in report.read_text()
    assert any("are those that the run was trained on" in line for line in found["not_tested"])
    assert report.parent.parent == place / "mine" and "Client-confidential." in report.read_text()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")} == before


def test_a_client_audits_its_own_part_alone(place: Path, tmp_path: Path):
    own = ["--client", "client-1", "--data", place / "images" / CLIENTS[1]]
    given = ["--others", place / "others", "--out", tmp_path / "mine"]
    outcome = command("audit", place / "run", *own, *given, "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    (model,) = found["membership"].values()
    assert model["members"] == 2 * 29 and model["others"] == 31 and found["client_confidential"] is True
    assert "records of clients other than client-1" in found["not_tested"]
    assert "needs the records of all clients" in Path(found["report"]).read_text()

    def refused(*more: object) -> str:
        return command("audit", place / "run", *more, *given).refusal

    assert "--client client-9: is no client of this run" in refused("--client", "client-9", *own[2:])
    assert "leave --client out" in refused(*own, "--retrain", "--ledger-dir", place / "ledgers")
    assert "no class of this run" in refused("--client", "client-1", "--data", tmp_path)


def test_no_other_ledgers_can_pay_for_a_rehearsal(place: Path, tmp_path: Path):
    """Fresh ledgers know nothing of what was spent, and would make a second run free."""
    given = ("--retrain", "--canaries", "500", "--claim", "3", "--ledger-dir")
    fresh = audit(place, *given, tmp_path / "fresh")
    assert "has no client-0 of this population" in fresh.refusal
    assert not (tmp_path / "fresh").exists()
    shutil.copytree(place / "ledgers", tmp_path / "copied")
    homes = [
        tmp_path / "copied" / "patients" / client / "identity.key" for client in ("client-0", "client-1")
    ]
    homes[0].write_bytes(homes[1].read_bytes())
    assert "client-0 has another key than in the run" in audit(place, *given, tmp_path / "copied").refusal


def test_private_data_are_not_spent_on_a_test_that_cannot_fail(place: Path):
    refused = audit(place, "--retrain", "--canaries", "20", "--ledger-dir", place / "ledgers")
    assert "could not refute epsilon" in refused.refusal and "use --canaries" in refused.refusal


def test_a_rehearsal_is_charged_as_a_second_run_and_refused_when_nothing_is_left(place: Path):
    ledgers = place / "ledgers"
    sizes = {path: path.stat().st_size for path in ledgers.rglob("*ledger*") if path.is_file()}
    given = ("--retrain", "--canaries", "500", "--ledger-dir", ledgers)
    first = audit(place, *given)
    assert first.status == 0, first.err
    assert first.json["charged"] is True and first.json["canaries"]
    assert "charged to the clients" in Path(first.json["report"]).read_text()
    assert any("canaries in DP-SGD of a classifier" in line for line in first.json["not_tested"])
    grown = [path for path, size in sizes.items() if path.stat().st_size > size]
    assert len(grown) >= len(CLIENTS)
    again = audit(place, *given)
    assert again.status == 2 and "budget" in again.err.lower()
    assert not list((place / "mine").glob(".*"))


def test_records_that_cannot_be_read_are_one_line(place: Path, tmp_path: Path):
    (tmp_path / "none").mkdir()
    given = ["--data", place / "images", "--out", tmp_path / "mine"]
    few = command("audit", place / "run", *given, "--others", tmp_path / "none")
    assert "--others" in few.refusal or "class folder" in few.refusal
    missing = command("audit", place / "run", *given, "--others", tmp_path / "nowhere")
    assert "is not a folder" in missing.refusal
    assert not (tmp_path / "mine").exists()
    given = ["--data", place / "images", "--others", place / "others", "--out", tmp_path / "mine"]
    inside = command("audit", place / "run", *given[:-1], place / "run" / "mine")
    assert "lies in the run" in inside.refusal
    (tmp_path / "manifest.json").write_text("{}")
    assert "lies in another run" in command("audit", place / "run", *given).refusal
