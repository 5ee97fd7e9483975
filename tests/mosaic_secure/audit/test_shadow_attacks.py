"""Shadow models against the classifiers that clients release: they find what is there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks.membership import shadows
from attacks.membership.attempts import LOSS
from mosaic_secure.audit import shadow_attacks
from mosaic_secure.audit.records import pair_by_class, run_config
from mosaic_secure.audit.shadow_attacks import attack_classifiers
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.runs.directory import RunDirectory

from ..conftest import Finished
from ..tiny import CLIENTS, tiny_train


def test_pairs_are_of_one_class_and_as_many_as_there_can_be():
    rng = np.random.default_rng(0)
    labels, others = np.array([0, 0, 0, 1, 2]), np.array([1, 1, 0, 0, 3])
    first, second = pair_by_class(labels, others, rng)
    assert (labels[first] == others[second]).all()
    assert sorted(labels[first]) == [0, 0, 1]
    assert len(set(first)) == len(set(second)) == 3


def test_classifiers_of_a_private_run_give_nothing_away(finished: Finished):
    run, told = RunDirectory.open(finished.path), []
    found = attack_classifiers(run, run_config(run), models=16, views=5, seed=1, progress=told.append)
    assert tuple(found) == CLIENTS
    for client, attack in found.items():
        assert (attack.client, attack.architecture, attack.models, attack.views) == (client, "mlp", 16, 5)
        assert attack.pool == 160 and attack.differs == ()  # 80 of its own, 80 of nobody's
        assert {"LiRA, online", "LiRA, offline", "RMIA", LOSS} < set(attack.attacks)
        for summary in attack.attacks.values():
            assert summary.members == summary.others == 80
            assert summary.area_interval.low < 0.62
            assert summary.caught[2].at_most > 0.9  # of epsilon 4
        assert attack.to_dict()["attacks"]["RMIA"]["members"] == 80
    assert told[-1].finished and {report.note for report in told} == set(CLIENTS)


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run without noise whose clients, heads on fixed features, trained for long."""
    place = tmp_path_factory.mktemp("heart")
    numbers = {"learning_rate": 2.0, "momentum": 0.9, "max_grad_norm": 100, "steps": 80, "sample_rate": 1.0}
    changes = {f"classifier__{name}": value for name, value in numbers.items()}
    outcome = tiny_train(place, "--epsilon", "inf", clients__architectures="scatter_head", **changes)
    assert outcome.status == 0, outcome.err
    return RunDirectory.open(place / "run")


def test_a_classifier_that_learnt_its_records_by_heart_is_found(by_heart: RunDirectory):
    """Shadow models find more than the loss does."""
    config = run_config(by_heart)
    found = attack_classifiers(by_heart, config, clients=["client-1"], models=32, seed=1)["client-1"].attacks
    best = max(found["LiRA, online, one spread"].area, found["RMIA"].area)
    assert best > 0.6 and best > found[LOSS].area
    assert found["RMIA"].caught[0].at_most == 1.0


def test_an_attack_that_was_stopped_goes_on(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shadows, "MOST_NUMBERS", 1)  # one model at a time
    run = RunDirectory.open(finished.path)
    config, asked = run_config(run), {"clients": ["client-0"], "models": 4, "views": 1, "keep": tmp_path}

    def stop(report: Progress) -> None:
        if report.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_classifiers(run, config, **asked, progress=stop)
    assert len(list(tmp_path.iterdir())) == 2
    told: list[int] = []
    whole = attack_classifiers(run, config, **asked, progress=lambda report: told.append(report.done))
    assert told == [4, 8, 9, 10, 11, 12, 12, 13, 14, 15, 16, 16]
    assert whole["client-0"].to_dict() == attack_classifiers(run, config, **asked)["client-0"].to_dict()


def test_a_trunk_is_computed_once(by_heart: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    """What shadow models are trained on are features, and what is trained is a linear head."""
    seen = []
    real = shadows.train_shadows

    def watched(build, images, *rest, **options):
        seen.append((tuple(images.shape), [name for name, _ in build(0).named_parameters()]))
        return real(build, images, *rest, **options)

    monkeypatch.setattr(shadows, "train_shadows", watched)
    attack_classifiers(by_heart, run_config(by_heart), clients=["client-2"], models=4, views=2)
    assert seen == [((160, 144), ["weight", "bias"])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": 5}, "models = 5: must be even"),
        ({"models": 2}, "4 or more"),
        ({"views": 0}, "views = 0"),
        ({"clients": ["client-9"]}, "client-9: the run keeps no classifier of it"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(finished: Finished, change: dict, said: str):
    run = RunDirectory.open(finished.path)
    with pytest.raises(UserError, match=said):
        attack_classifiers(run, run_config(run), **change)


def test_a_run_without_classifiers_is_refused(small_run: Path, finished: Finished):
    config = run_config(RunDirectory.open(finished.path))
    with pytest.raises(UserError, match="has no classifiers"):
        attack_classifiers(RunDirectory.open(small_run), config)


def test_what_shadow_models_do_not_do_is_told(finished: Finished):
    config = run_config(RunDirectory.open(finished.path))
    content = config.to_dict()
    content["classifier"] |= {"rounds": 2, "steps": 4, "augmentations": 3}
    assert len(shadow_attacks._differs(type(config).from_dict(content))) == 2
