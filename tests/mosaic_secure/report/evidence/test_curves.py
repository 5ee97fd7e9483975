"""A sweep in a pack: its runs go with it, and its numbers are held against theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.report.evidence.format import sign_index
from mosaic_secure.runs.encoding import json_document, sha256
from privacy.identity import SigningKey

from ...tiny import command

CURVE = "curves/1/curve.json"


@pytest.fixture(scope="module")
def packed(sweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """(pack, key, what `report --json` said) of the tiny sweep."""
    place = tmp_path_factory.mktemp("packed")
    key = place / "own" / "evidence.key"
    outcome = command("report", sweep[0] / "it", "--out", place / "pack", "--key", key, "--json")
    assert outcome.status == 0, outcome.err
    return place / "pack", key, outcome.json


def forged(packed: tuple[Path, Path, Any], place: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose curve.json was changed by somebody who holds the key."""
    pack, key = Path(shutil.copytree(packed[0], place / "copy")), SigningKey.load(packed[1])
    record = json.loads((pack / CURVE).read_bytes())
    change(record)
    (pack / CURVE).write_bytes(json_document(record))
    index = json.loads((pack / "index.json").read_bytes())
    data = (pack / CURVE).read_bytes()
    index["files"][CURVE] = {"sha256": sha256(data), "bytes": len(data)}
    (pack / "index.json").write_bytes(json_document(index))
    (pack / "signature.json").write_bytes(sign_index(key, index))
    return pack


def test_a_sweep_brings_all_its_runs_and_verifies(sweep, packed):
    pack, _, said = packed
    runs = {json.loads(p.read_bytes())["run_id"] for p in (sweep[0] / "it" / "runs").glob("*/manifest.json")}
    assert set(said["runs"]) == runs and said["curves"] == ["it"] and len(runs) == 14
    for name in ("curve.html", "curve.json", "curve.csv", "curve.svg", "curve.png"):
        assert (pack / "curves" / "1" / name).read_bytes() == (sweep[0] / "it" / name).read_bytes()
    assert not (pack / "comparison.html").exists(), "fourteen runs of a sweep are compared by its page"
    assert "curves/1/curve.html" in (pack / "index.html").read_text()
    found = command("verify", pack.with_suffix(".zip"), "--json")
    assert found.status == 0, found.out
    assert (found.json["runs"], found.json["curves"]) == (14, 1)


def first(record: dict[str, Any]) -> dict[str, Any]:
    return record["points"][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: first(r)["accuracy_by_seed"].update({"0": 0.99}), "seed 0: tells another accuracy"),
        (lambda r: first(r).update(accuracy_mean=0.99), "its mean accuracy is not that of its runs"),
        (lambda r: first(r).update(epsilon_spent=0.1), "tells another epsilon spent"),
        (lambda r: first(r).update(delta=1e-9), "tells another delta"),
        (lambda r: first(r).update(epsilon=0.5), "its run is of another method, budget or seed"),
        (lambda r: first(r)["runs"].update({"0": "0" * 16}), "which is not in the pack"),
        (lambda r: r["baselines"]["central"][0]["accuracy_by_seed"].clear(), "central at epsilon 1"),
        (lambda r: first(r).update(accuracy_ci95=[0.99, 1.0]), "its interval is not that of its runs"),
        (lambda r: first(r).update({"tpr_ceiling_at_fpr_0.01": 0.01}), "another ceiling of attacks"),
        (lambda r: first(r)["accuracy_by_seed"].update({"9": 0.9}), "counts runs that it does not name"),
        (lambda r: first(r)["runs"].update({"1": first(r)["runs"]["0"]}), "twice"),
        (lambda r: r["choice"].update(epsilon=4.0), "which is not what its own rule chooses"),
        (lambda r: r.update(points=7), "is not what mosaic-secure curve writes"),
        (lambda r: r.pop("ablation_run"), "is not what mosaic-secure curve writes"),
    ],
)
def test_a_number_that_the_runs_do_not_bear_out_is_named(packed, tmp_path: Path, change: Any, told: str):
    pack = forged(packed, tmp_path, change)
    found = command("verify", pack, "--json")
    assert found.status == 3
    assert any(p.startswith(f"{CURVE}: ") and told in p for p in found.json["problems"]), found.json


def test_what_somebody_did_to_the_files_does_not_enter_a_pack(sweep, packed, tmp_path: Path):
    copy = Path(shutil.copytree(sweep[0] / "it", tmp_path / "it"))
    record = json.loads((copy / "curve.json").read_bytes())
    first(record)["accuracy_by_seed"]["1"] = 1.0
    del record["baselines"]["local"]
    (copy / "curve.json").write_bytes(json_document(record))
    for name in ("curve.html", "curve.csv", "curve.svg"):
        (copy / name).write_text("<script>all is well</script>")
    outcome = command("report", copy, "--out", tmp_path / "pack", "--key", packed[1])
    assert outcome.status == 0, outcome.err
    for name in ("curve.html", "curve.json", "curve.csv", "curve.svg", "curve.png"):
        assert (tmp_path / "pack/curves/1" / name).read_bytes() == (
            packed[0] / "curves/1" / name
        ).read_bytes()


def test_a_sweep_that_is_not_whole_says_so_and_one_that_is_none_is_refused(sweep, tmp_path: Path):
    copy = Path(shutil.copytree(sweep[0] / "it", tmp_path / "it"))
    shutil.rmtree(copy / "runs" / "mosaic-accuracy-local-eps4-seed1")
    options = ["--out", tmp_path / "pack", "--key", tmp_path / "key"]
    assert command("report", copy, *options).status == 0
    record = json.loads((tmp_path / "pack" / CURVE).read_bytes())
    assert (record["runs_ended"], record["runs_planned"]) == (13, 14)
    assert record["failed"] == [{"run": "mosaic-accuracy-local-eps4-seed1", "reason": "has not ended"}]
    assert command("verify", tmp_path / "pack").status == 0

    (copy / "curve.json").unlink()
    elsewhere = ["--out", tmp_path / "other", "--key", tmp_path / "key"]
    assert "has no curve.json; ask for it again" in command("report", copy, *elsewhere).refusal
    twice = command("report", sweep[0] / "it", next((sweep[0] / "it" / "runs").iterdir()), *elsewhere)
    assert "give each run once" in twice.refusal and not (tmp_path / "other").exists()
