from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

HOUSE = Path(__file__).resolve().parents[2]
FRONTIER = HOUSE / "docs" / "frontier.md"
SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def bakeoff(load) -> ModuleType:
    return load("bakeoff")


@pytest.fixture(scope="module")
def tried(load) -> ModuleType:
    return load("encoders_tried")


@pytest.fixture(scope="module")
def record(bakeoff: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict:
    results = tmp_path_factory.mktemp("results")
    rows = ["", "try.projection=random", "prototypes.ridge=50", "try.keep=64 prototypes.dim=128"]
    rows.append("try.clusters=2 prototypes.rounds=2 prototypes.gradient_share=0.4")
    command = ["sample", "--config", "digits", "--honest", "3", "--seeds", "0,1", "--results", str(results)]
    bakeoff.main(command + [word for row in rows for word in ("--variant", row)])
    text = (results / "bakeoff_sample.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_rows_hold_every_run_and_are_held_against_the_first(record: dict) -> None:
    assert record["cells"] == ["local 4", "distributed 4"]
    first, same, ridged = record["rows"][:3]
    assert first["difference"] == {"mean": 0.0, "std": 0.0}
    # The frame that the tool draws is the product's, so codes, noise and scores are the same.
    assert same["runs"] == first["runs"]
    gaps = [
        100 * (a - b)
        for cell in record["cells"]
        for a, b in zip(ridged["runs"][cell], first["runs"][cell], strict=True)
    ]
    assert ridged["difference"]["mean"] == pytest.approx(np.mean(gaps), abs=0.001)
    assert ridged["difference"]["mean"] < -1  # so strong a ridge forgets the second moments
    for row in record["rows"]:
        assert all(len(runs) == 2 and min(runs) > 0.7 for runs in row["runs"].values()), row


def test_noise_hurts_and_single_rows_come_before_combinations(bakeoff: ModuleType, record: dict) -> None:
    assert record["rows"][0]["local 4"] < record["rows"][0]["distributed 4"]
    found = list(bakeoff.variants(["a=1,2", "b=3"], ["", "c=4 d=5"]))
    assert found == [{}, {"c": "4", "d": "5"}, {"a": "1", "b": "3"}, {"a": "2", "b": "3"}]


def test_a_misspelt_trial_is_refused(bakeoff: ModuleType) -> None:
    with pytest.raises(SystemExit, match="try.featurs"):
        bakeoff.main(["sample", "--config", "digits", "--honest", "3", "--variant", "try.featurs=hog4"])


def test_every_feature_map_is_fixed_and_of_norm_one(tried: ModuleType) -> None:
    images = torch.from_numpy(tried.procedural_images(4, SHAPE, seed=1))
    assert 0 <= images.min() < images.max() <= 1
    for name in (*tried.feature_names(), "hog4+haar"):
        module = tried.features(name, SHAPE, seed=3)
        found = module(images)
        assert found.shape == (4, module.dim), name
        assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-4), name
        assert torch.equal(found, tried.features(name, SHAPE, seed=3)(images)), name
        # A record's features do not depend on the records beside it.
        assert torch.allclose(found[1:2], module(images[1:2]), atol=1e-5), name
        both = tried.mirrored(module)
        assert torch.allclose(both(images), both(images.flip(-1)), atol=1e-5), name
    with pytest.raises(SystemExit, match="one of scattering"):
        tried.features("sift", SHAPE, seed=3)


@pytest.mark.parametrize("kind", ["random", "cosine", "low", "maps", "public", "sketch"])
def test_projections_are_orthonormal(tried: ModuleType, kind: str) -> None:
    module = tried.features("scattering", (1, 8, 8), seed=0)
    rows = tried.public_features(module, 60, (1, 8, 8), seed=0)
    mean, matrix = tried.frame(kind, module, (1, 8, 8), 40, 5, 0.0, lambda: rows)
    assert mean.shape == (module.dim,)
    assert matrix.shape == (module.dim, 40)
    assert torch.allclose(matrix.T @ matrix, torch.eye(40), atol=1e-4)
    moved = tried.centred(rows)[1]
    held = ((moved @ matrix) ** 2).sum() / (moved**2).sum()
    if kind in ("public", "sketch"):  # such directions hold more of these images than random ones
        assert held > 0.95
    else:
        assert held < 0.9


def documented() -> list[str]:
    text = FRONTIER.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^python (benchmarks/\w+\.py .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("line", documented(), ids=lambda line: line.split()[1])
def test_tables_of_the_frontier_are_those_of_the_results(load, line: str) -> None:
    script, name = shlex.split(line)[:2]
    path = HOUSE / "benchmarks" / "results" / f"bakeoff_{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert shlex.split(record["command"])[1:] == shlex.split(line)
    assert load(Path(script).stem).table(record) in FRONTIER.read_text(encoding="utf-8")
