"""Shadow pipelines: each judged record in half of them, stopped ones go on, and leaks are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks.membership.shadows import random_halves
from mosaic_secure.audit import shadow_pipelines
from mosaic_secure.audit.judged_halves import Judged
from mosaic_secure.audit.records import run_config
from mosaic_secure.audit.shadow_pipelines import attack_pipelines
from mosaic_secure.client.planted import add_records
from mosaic_secure.data import load_client
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.runs.directory import RunDirectory

from ..conftest import Finished
from ..tiny import CLIENTS, command, tiny_config, tiny_train


def test_members_and_others_are_alike_in_class_and_client():
    judged = Judged.of(tiny_config(), np.random.default_rng(0), 100)
    assert judged.members.sum() == 100 and len(judged.labels) == 200 and judged.records == 240
    first, second = judged.members, ~judged.members
    assert np.array_equal(judged.labels[first], judged.labels[second])
    assert np.array_equal(judged.owners[first], judged.owners[second])
    assert len(np.unique(judged.images.reshape(200, -1), axis=0)) >= 199


def test_a_client_trains_on_its_half_and_on_all_that_is_not_judged(tmp_path: Path):
    config = tiny_config()
    judged = Judged.of(config, np.random.default_rng(0), 100)
    half = random_halves(4, 200, 0)[0]
    seen = []
    for number in range(len(CLIENTS)):
        from mosaic_secure.client.planted import plant_records

        own, more = load_client(config, number), judged.added(number, half)
        kept = judged.kept(number, half)
        plant_records(tmp_path / str(number), judged.images[more], judged.labels[more], kept)
        data = add_records(tmp_path / str(number), own)
        assert data.declared_records == own.declared_records
        seen += [image.tobytes() for image in data.images]
    judged_bytes = [image.tobytes() for image in judged.images]
    unjudged = 240 - 100
    assert len(seen) == unjudged + half.sum()
    counted = {image: seen.count(image) for image in set(judged_bytes)}
    assert all(counted[image] >= 1 for image, inside in zip(judged_bytes, half, strict=True) if inside)
    outside = [counted[image] for image, inside in zip(judged_bytes, half, strict=True) if not inside]
    assert sum(outside) <= 2  # digits has a few twins


@pytest.fixture(scope="module")
def attacked(finished: Finished, tmp_path_factory: pytest.TempPathFactory):
    """A tiny run attacked by four pipelines, after a first attempt that was stopped in the third."""
    place, run = tmp_path_factory.mktemp("pipelines"), RunDirectory.open(finished.path)
    asked = {"pipelines": 4, "views": 2, "work": place / "work", "keep": place / "kept", "seed": 1}

    def stop(report: Progress) -> None:
        if report.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_pipelines(run, run_config(run), **asked, progress=stop)
    assert not list((place / "work").iterdir())
    kept = sorted((place / "kept").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # damaged: made anew
    made, real = [], shadow_pipelines.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadow_pipelines, "train", lambda *a, **b: made.append(b["out"]) or real(*a, **b))
        found = attack_pipelines(run, run_config(run), **asked)
        assert len(made) == 3
        again = attack_pipelines(run, run_config(run), **asked)
        assert len(made) == 3 and again.to_dict() == found.to_dict()
    return found, place


def test_a_private_run_gives_little_away(attacked):
    found, _ = attacked
    assert (found.pipelines, found.views, found.judged, found.records) == (4, 2, 240, 240)
    assert set(found.membership) == {
        "LiRA, online, one spread", "LiRA, offline, one spread", "RMIA", "loss threshold",
    }  # fmt: skip
    assert len(found.synthetic) == 4
    for summary in (*found.membership.values(), *found.synthetic.values()):
        assert summary.members == summary.others == 240
        assert summary.area_interval.low < 0.6
        assert summary.worst["client"].name in CLIENTS
    record = found.to_dict()
    assert record["synthetic"]["nearness, shadow generators"]["members"] == 240


def test_nothing_of_a_pipeline_stays_but_its_answers(attacked):
    _, place = attacked
    assert not list((place / "work").iterdir())
    assert len(list((place / "kept").iterdir())) == 4
    with np.load(sorted((place / "kept").iterdir())[0], allow_pickle=False) as kept:
        assert kept["confidence"].shape == (480, 2) and kept["nearness"].shape == (480,)


def test_a_pipeline_has_the_runs_seed_and_partition_and_noise_of_its_own():
    config = tiny_config(privacy__insecure_reproducible_noise=True, seed=5)
    like = shadow_pipelines._like(config, None)
    assert like.seed == 5 and not like.privacy.insecure_reproducible_noise
    varied = shadow_pipelines._like(config, 9)
    assert varied.seed == 9 and varied.partition_seed == 5


@pytest.mark.slow
def test_a_federation_without_noise_is_found(tmp_path: Path):
    """FedAvg of a network that learns 240 digits by heart; of six pipelines."""
    settings = {
        "global_model__architecture": "mlp", "fine_tune__rounds": 8, "fine_tune__steps": 40,
        "fine_tune__sample_rate": 1.0, "fine_tune__learning_rate": 1.0, "fine_tune__max_grad_norm": 100,
    }  # fmt: skip
    outcome = tiny_train(tmp_path, "--method", "fedavg", "--epsilon", "inf", **settings)
    assert outcome.status == 0, outcome.err
    run = RunDirectory.open(tmp_path / "run")
    found = attack_pipelines(run, run_config(run), pipelines=6, work=tmp_path / "work", seed=1)
    assert found.synthetic == {}
    best = max(found.membership["LiRA, online, one spread"].area, found.membership["RMIA"].area)
    assert best > 0.6 and best > found.membership["loss threshold"].area


@pytest.mark.parametrize(
    ("change", "said"),
    [({"pipelines": 5}, "must be even"), ({"pipelines": 2}, "4 or more"), ({"views": 26}, "views = 26")],
)
def test_numbers_that_do_not_fit_are_refused(finished: Finished, tmp_path: Path, change: dict, said: str):
    run = RunDirectory.open(finished.path)
    with pytest.raises(UserError, match=said):
        attack_pipelines(run, run_config(run), work=tmp_path / "work", **change)
    assert not (tmp_path / "work").exists()


def test_a_local_run_is_refused(finished: Finished, tmp_path: Path):
    run, config = RunDirectory.open(finished.path), run_config(RunDirectory.open(finished.path))
    local = config.model_copy(update={"method": "local"})
    with pytest.raises(UserError, match="has no global model"):
        attack_pipelines(run, local, work=tmp_path)
    assert command("verify", finished.path).status == 0
