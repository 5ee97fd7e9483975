"""A run on the user's own images, which are private: nothing about them stands anywhere in the run."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mosaic_secure.client.session import Session
from mosaic_secure.engine import inprocess
from mosaic_secure.runs import manifest
from mosaic_secure.runs.encoding import json_line

from .tiny import CLIENTS, Outcome, Wire, command

CLASSES = ("healthy", "mild", "severe")
# Records of each class at each client: numbers that turn up nowhere by chance, one class in one client alone.
HELD = {"berlin": (89, 67, 0), "lyon": (97, 59, 0), "oslo": (83, 61, 1)}
OPTIONS = {
    "data.class_names": ",".join(CLASSES),
    "data.declared_records": 150,
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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("images")
    stream = np.random.default_rng(1)
    for client, counts in HELD.items():
        for name, count in zip(CLASSES, counts, strict=True):
            (top / client / name).mkdir(parents=True)
            for index in range(count):
                pixels = stream.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(top / client / name / f"patient-{client}-{index}.png")
    return top


def train(images: Path, place: Path, **changes: object) -> Outcome:
    fields = OPTIONS | {"data.path": images} | {k.replace("__", "."): v for k, v in changes.items()}
    given = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    places = ["--out", place / "run", "--ledger-dir", place / "ledgers"]
    return command("train", "--config", "folder", "--delta", "1e-5", *given, *places, "--json")


@dataclass(frozen=True)
class Private:
    """A finished run on private images; `digests`: the hashes of records that the clients worked with."""

    place: Path
    outcome: Outcome
    wire: Wire
    digests: set[str]

    def files(self) -> list[Path]:
        """All files of the run directory."""
        return [path for path in (self.place / "run").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def private(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Private:
    place = tmp_path_factory.mktemp("private")
    wire, digests = Wire(place / "ledgers"), set()
    with pytest.MonkeyPatch.context() as patch:
        compute = vars(Session)["data_digest"].func

        def noted(session: Session) -> str:
            digests.add(compute(session))
            return compute(session)

        patch.setattr(Session, "data_digest", property(noted))
        patch.setattr(inprocess, "InProcessGrid", wire.grid)
        outcome = train(images, place)
    assert outcome.status == 0, outcome.err
    return Private(place, outcome, wire, digests)


def test_the_run_ends_without_any_accuracy(private: Private):
    place, outcome = private.place, private.outcome
    assert outcome.json["accuracy"] is None and outcome.json["teacher_accuracy"] is None
    assert 0.99 * 4 <= outcome.json["epsilon"] <= 4
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["value"] for row in rows if row["metric"] == "accuracy"] == [None]
    assert command("verify", place / "run").status == 0
    statement = json.loads((place / "run" / "privacy.json").read_bytes())
    assert statement["population"]["visibility"] == "private"


def test_no_picture_of_the_partition_and_no_list_of_members(private: Private):
    # What lies under synthetic/ was drawn from released moments and generators.
    names = {path.name for path in private.files() if path.parent.name != "synthetic"}
    assert not names & {"partition.png", "membership.npz"}
    assert not [name for name in names if name.endswith((".png", ".npz", ".npy"))]


def numbers(text: str) -> set[str]:
    """Numbers that stand alone, not as digits of hashes, sizes of weights or longer numbers."""
    return set(re.findall(r"(?<![\w.\-])\d+(?:\.0)?(?![\w.])", text))


def exact_counts() -> set[str]:
    """How many records each client, each class, and each class of each client has."""
    counts = {n for held in HELD.values() for n in held if n > 1}
    counts |= {sum(held) for held in HELD.values()} | {
        sum(column) for column in zip(*HELD.values(), strict=True)
    }
    counts.add(sum(map(sum, HELD.values())))
    return {text for n in counts - {1} for text in (str(n), f"{n}.0")}


def test_no_exact_count_stands_in_any_file_or_on_the_screen(private: Private):
    outcome = private.outcome
    exact = exact_counts()
    files = [path for path in private.files() if path.suffix in (".json", ".jsonl")]
    assert len(files) >= 6
    for path in files:
        text = path.read_text()
        if path.name == "messages.jsonl":  # its sizes and sequence numbers are those of public shapes
            text = re.sub(r'"(bytes|sequence)":\d+', "", text)
        if path.name in ("manifest.json", "ledgers.json"):
            text = re.sub(r'"(bytes|sequence)": ?\d+', "", text)
        assert not numbers(text) & exact, path
    assert not numbers(outcome.out + re.sub(r"\[ *[\d.]+ s\]", "", outcome.err)) & exact


def test_its_evidence_pack_holds_no_statistic_no_picture_and_no_name(private: Private, tmp_path: Path):
    given = ["--out", tmp_path / "pack", "--key", tmp_path / "key", "--json"]
    outcome = command("report", private.place / "run", *given)
    assert outcome.status == 0, outcome.err
    files = [path for path in (tmp_path / "pack").rglob("*") if path.is_file()]
    assert len(files) == 12 and {path.suffix for path in files} == {".json", ".jsonl", ".html", ".md"}
    exact = exact_counts()
    for path in files:
        text = re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.DOTALL)
        if path.suffix == ".json":
            text = re.sub(r'"(bytes|sequence)": ?\d+', "", text)
        assert not numbers(text) & exact, path
        assert "data:image" not in text and "<img" not in text, path
        assert not [word for word in ("patient-", "berlin", "oslo", "lyon") if word in text], path
        assert not [digest for digest in private.digests if digest in text], path
    card = next(path for path in files if path.name == "model-card.md").read_text()
    assert "Not told: there are no public test records" in card and "private" in card
    assert outcome.json["audits"] == 0 and command("verify", tmp_path / "pack.zip").status == 0


def test_a_number_that_was_counted_on_private_records_enters_no_pack(private: Private, tmp_path: Path):
    """Such runs are not made here; whoever changes one and seals it anew gets no pack of it."""
    copy = Path(shutil.copytree(private.place / "run", tmp_path / "run"))
    given = ["report", copy, "--out", tmp_path / "pack", "--key", tmp_path / "key"]
    sealed = manifest.read(copy)
    facts = {name: value for name, value in sealed.items() if name not in ("files", "digest")}
    manifest.write(copy, {**facts, "result": {**facts["result"], "accuracy": 0.5}})
    assert "tells accuracy, of no public test records" in command(*given).refusal
    row = {"metric": "accuracy", "of": "global", "on": "private test", "value": 0.5}
    (copy / "metrics.jsonl").write_bytes(json_line(row))
    manifest.write(copy, facts)
    assert "was measured on 'private test', which may not be told" in command(*given).refusal
    audit = copy / "audits" / "one"
    audit.mkdir(parents=True)
    (copy / "metrics.jsonl").write_bytes((private.place / "run" / "metrics.jsonl").read_bytes())
    manifest.write(copy, facts)
    (audit / "audit.json").write_text('{"schema_version": 2, "client_confidential": false}')
    manifest.write(audit, {"sealed": True, "run_id": facts["run_id"], "request": {}})
    assert "is client-confidential" in command(*given).refusal
    assert not list(tmp_path.glob("*pack*"))


def test_a_private_run_without_noise_enters_no_pack(images: Path, tmp_path: Path):
    """Even the hash of a count tells the count where nothing hides it."""
    lifted = {"privacy__max_epsilon_per_run": "inf", "privacy__max_epsilon_lifetime": "inf"}
    assert train(images, tmp_path, privacy__epsilon="inf", **lifted).status == 0
    said = command("report", tmp_path / "run", "--out", tmp_path / "pack", "--key", tmp_path / "key").refusal
    assert "its data are private and it guarantees nothing" in said and not (tmp_path / "pack").exists()


def test_no_name_of_a_file_or_a_place_leaves_the_clients(private: Private):
    outcome, wire = private.outcome, private.wire
    for word in (b"patient-", b"berlin", b"oslo", b"lyon"):
        assert not [path for path in private.files() if word in path.read_bytes()]
        assert not any(word in passed.data for passed in wire.passed)
        assert word.decode() not in outcome.out + outcome.err


def test_no_file_holds_a_record(private: Private, images: Path):
    wire = private.wire
    blobs = [path.read_bytes() for path in private.files()]
    blobs += [passed.data for passed in wire.passed]
    for file in sorted(images.rglob("*.png"))[::29]:
        pixels = np.asarray(Image.open(file))
        scaled = (pixels / np.float32(255)).astype(np.float32)
        for form in (pixels.tobytes(), scaled.tobytes(), scaled.astype(np.float64).tobytes()):
            assert not any(form in blob for blob in blobs)
        assert not any(file.read_bytes() in blob for blob in blobs)


def test_no_hash_of_records_stands_in_any_file_or_message(private: Private):
    """The digest of its records lies with the client; what leaves is a keyed one, or none."""
    assert len(private.digests) == len(CLIENTS)
    for digest in private.digests:
        for form in (digest.encode(), bytes.fromhex(digest)):
            assert not any(form in passed.data for passed in private.wire.passed)
            assert not [path for path in private.files() if form in path.read_bytes()]


def test_a_client_without_enough_records_is_told_at_home_and_nothing_is_spent(images: Path, tmp_path: Path):
    outcome = train(images, tmp_path, partition__min_records=157)
    line = outcome.refusal
    assert "failures.log" in line and not numbers(re.sub(r"\S*/\S*", "", line)) & {"156", "145", "157"}
    assert "min_records" in next(tmp_path.glob("ledgers/patients/*/failures.log")).read_text()
    assert not [path for path in tmp_path.rglob("*.bin")]


def test_caps_of_a_private_population_hold_across_runs(images: Path, tmp_path: Path):
    assert train(images, tmp_path).status == 0
    (tmp_path / "run").rename(tmp_path / "first")
    assert train(images, tmp_path).status == 0  # 8 of 10 are spent
    (tmp_path / "run").rename(tmp_path / "second")
    made = len(list(tmp_path.rglob("*.bin")))
    assert "budget already spent" in train(images, tmp_path).refusal
    assert len(list(tmp_path.rglob("*.bin"))) == made
    assert "clients.count" in train(images, tmp_path, clients__count=2).refusal


def test_a_public_test_set_gives_private_data_a_metric(images: Path, tmp_path: Path):
    for name in CLASSES:
        (tmp_path / "test" / name).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"{index}.png")
    refused = train(images, tmp_path, data__test_path=tmp_path / "test")
    assert "private test set" in refused.refusal
    tested = {"data__test_path": tmp_path / "test", "data__test_visibility": "public"}
    outcome = train(images, tmp_path, **tested)
    assert outcome.status == 0 and outcome.json["accuracy"] is not None, outcome.err


def test_nothing_is_kept_that_can_be_unzipped_to_records(private: Private):
    for path in private.files():
        if path.parent.name != "synthetic":
            assert not zipfile.is_zipfile(io.BytesIO(path.read_bytes())), path
