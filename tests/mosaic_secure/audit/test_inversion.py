"""Inversion of a sealed run: each attack that it allows, and pictures that show records are found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_secure.audit import evaluator, inversion
from mosaic_secure.audit.inversion import Inversion, invert
from mosaic_secure.audit.prototype_pictures import Prototypes
from mosaic_secure.audit.records import JudgedRecords, public_records, run_config
from mosaic_secure.config import RunConfig
from mosaic_secure.plan import build_plan
from mosaic_secure.runs.directory import RunDirectory

from ..conftest import Finished
from ..tiny import SAMPLED, tiny_train

PROTOTYPES = ("prototypes as the server saw them", "prototypes told by the expert")


@pytest.fixture(scope="module")
def quick():
    """A few steps of every search, and of the auditor's own model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "STEPS", 200)
        patch.setattr(inversion, "STEPS", 40)
        patch.setattr(inversion, "RESTARTS", 1)
        yield


def changed(config: RunConfig, section: str, **fields: Any) -> RunConfig:
    content = config.to_dict()
    return RunConfig.from_dict({**content, section: {**content[section], **fields}})


@pytest.fixture(scope="module")
def judged(finished: Finished) -> tuple[RunDirectory, JudgedRecords]:
    run = RunDirectory.open(finished.path)
    return run, public_records(run, seed=1)


@pytest.fixture(scope="module")
def found(judged: tuple[RunDirectory, JudgedRecords], quick: None) -> Inversion:
    run, records = judged
    return invert(run, run_config(run), records, seed=7)


def test_every_attack_that_the_run_allows_is_made_and_judged(found: Inversion, judged):
    _, records = judged
    assert [attack.name for attack in found.attacks] == ["pixels", "generators", *PROTOTYPES]
    assert found.left_out == () and found.class_names == tuple("0123456789")
    assert found.evaluator.trials == (~records.members).sum() and found.evaluator.value > 0.7
    for attack in found.attacks:
        count = len(attack.images)
        assert attack.images.shape == attack.members.shape == attack.fresh.shape == (count, 1, 8, 8)
        assert attack.images.dtype == attack.members.dtype == np.uint8
        assert attack.recognised.trials == count >= 10 and set(attack.classes) == set(range(10))
        assert attack.images.reshape(count, -1).std(axis=1).min() > 10  # none is grey
    assert len(found.attacks[0].images) == inversion.PICTURES


def test_the_nearest_records_are_what_they_are_called(found: Inversion, judged):
    _, records = judged
    members = records.images[records.members], records.labels[records.members]
    fresh = records.images[~records.members], records.labels[~records.members]
    for attack in found.attacks:
        for shown, side in ((attack.members, members), (attack.fresh, fresh)):
            known = {((i * 255).round().astype(np.uint8).tobytes(), y) for i, y in zip(*side, strict=True)}
            assert all((i.tobytes(), y) in known for i, y in zip(shown, attack.classes, strict=True))


def test_numbers_for_programs_hold_no_pictures(found: Inversion):
    record = json.loads(json.dumps(found.to_dict()))
    assert [row["name"] for row in record["attacks"]] == [attack.name for attack in found.attacks]
    first = record["attacks"][0]
    assert first["recognised"]["trials"] == first["pictures"] == 20
    assert first["recognised"]["interval"]["low"] <= first["recognised"]["value"]
    assert len(json.dumps(record)) < 5000


def test_pictures_that_show_training_records_are_found_out(found: Inversion, judged, quick: None):
    """The very pictures that the pixels give are put among the training records, each ten times."""
    run, records = judged
    shown = found.attacks[0]
    known = JudgedRecords(
        images=np.concatenate([records.images, np.tile(shown.images / np.float32(255), (10, 1, 1, 1))]),
        labels=np.concatenate([records.labels, np.tile(shown.classes, 10)]),
        members=np.concatenate([records.members, np.ones(10 * len(shown.images), bool)]),
        clients=np.concatenate([records.clients, np.full(10 * len(shown.images), "client-0")]),
        population=records.population,
        population_labels=records.population_labels,
    )
    again = invert(run, run_config(run), known, seed=7).attacks[0]
    assert np.array_equal(again.images, shown.images)  # the attack does not look at the records
    assert again.nearer.value > 0.9 and again.chance < 0.001 and np.median(again.to_member) < 0.02
    assert shown.chance > 0.001


def test_sums_made_again_are_those_of_the_plan(judged):
    """Without noise they are the sums over all clients' records; with it they lie as far off as planned."""
    run, records = judged
    config = run_config(run)
    prototypes = Prototypes.of(run, config)
    members = records.members  # all 240 of them
    codes, labels = prototypes.codes(records.images[members]), records.labels[members]
    exact = np.stack([codes[labels == label].sum(axis=0) for label in range(10)])
    unnoised = Prototypes.of(run, changed(config, "privacy", epsilon="inf")).as_summed(3).numpy()
    np.testing.assert_allclose(unnoised, exact, atol=1e-4)
    apart = prototypes.as_summed(3).numpy() - exact
    planned = build_plan(config).round("moments-0").mechanism.noise_std("class_sums", 3)
    assert apart.std() == pytest.approx(planned, rel=0.15) and planned > 0.5
    assert not np.allclose(apart, prototypes.as_summed(4).numpy() - exact)


def test_a_model_without_gradients_is_told(judged, quick: None, monkeypatch: pytest.MonkeyPatch):
    run, records = judged
    real = inversion.load

    def stepped(run: RunDirectory):
        predictor = real(run)
        module = predictor.module
        predictor.module = torch.nn.Sequential(_Rounded(), module)
        return predictor

    monkeypatch.setattr(inversion, "load", stepped)
    got = invert(run, run_config(run), records, seed=7)
    assert [attack.name for attack in got.attacks] == list(PROTOTYPES)
    assert got.left_out == ("The global model, through which no gradient passes.",)


class _Rounded(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.round()


def test_a_class_without_training_records_is_left_out(judged, quick: None):
    run, records = judged
    kept = ~(records.members & (records.labels == 4))
    fewer = JudgedRecords(
        *(getattr(records, name)[kept] for name in ("images", "labels", "members", "clients")),
        records.population,
        records.population_labels,
    )
    got = invert(run, run_config(run), fewer, seed=7)
    assert all(set(attack.classes) == set(range(10)) - {4} for attack in got.attacks)
    assert "to compare with: 4." in got.left_out[0]


@pytest.mark.slow
def test_a_sampler_is_a_prior_and_shows_its_means(tmp_path: Path, quick: None):
    made = tiny_train(tmp_path, **SAMPLED)
    assert made.status == 0, made.err
    run = RunDirectory.open(tmp_path / "run")
    got = invert(run, run_config(run), public_records(run), seed=2)
    names = [attack.name for attack in got.attacks]
    assert names == ["pixels", "generators", "sampler", "means in the sampler", *PROTOTYPES]
