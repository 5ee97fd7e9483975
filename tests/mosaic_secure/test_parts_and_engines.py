"""Every part of the method can be switched off, and every engine gives the same model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from .tiny import FINE_TUNED, SAMPLED, command, tiny_train

REPEATABLE = {"privacy.insecure_reproducible_noise": True}
NO_GENERATOR = {
    "generator.enabled": False,
    "privacy.shares.prototypes": 0.7,
    "privacy.shares.counts": 0.1,
    "privacy.shares.classifier": 0.2,
    "privacy.shares.generator": 0,
}
NO_PROTOTYPES = {
    "prototypes.enabled": False,
    "experts.prototype_expert": False,
    "global_model.architecture": "mlp",
    "privacy.shares.prototypes": 0,
    "privacy.shares.counts": 0.1,
    "privacy.shares.classifier": 0.5,
    "privacy.shares.generator": 0.4,
}
PROTOTYPES_ALONE = {
    **NO_GENERATOR,
    "classifier.enabled": False,
    "experts.class_experts": False,
    "privacy.shares.prototypes": 0.9,
    "privacy.shares.classifier": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no generator": NO_GENERATOR,
    "no prototypes": NO_PROTOTYPES,
    "prototypes alone": PROTOTYPES_ALONE,
    "no gate": {"gate.enabled": False},
    "no class experts": {"experts.class_experts": False},
    "gradient rounds": {"prototypes.rounds": 2, "prototypes.gradient_share": 0.4},
    "class sampler": SAMPLED,
}
MORE_VARIANTS: dict[str, dict[str, Any]] = {
    "two fine-tuning rounds, distributed": {
        **FINE_TUNED,
        "fine_tune.rounds": 2,
        "privacy.trust": "distributed",
    },
    "two rounds of the classifiers": {"classifier.rounds": 2},
    "no prototype expert": {"experts.prototype_expert": False},
    "no distillation": {"distill.enabled": False},
    "no sampler": {"distill.sampler": False},
    "no second moments": {"prototypes.second_moments": False},
    "class sampler, no pixels in the codes, distributed": {
        **SAMPLED,
        "prototypes.pixel_weight": 0,
        "privacy.trust": "distributed",
    },
    "class sampler, no prototypes": {
        **NO_PROTOTYPES,
        **SAMPLED,
        "privacy.shares.prototypes": 0,
        "privacy.shares.classifier": 0.2,
    },
    "no centre": {"prototypes.centre_share": 0},
    "distributed trust": {"privacy.trust": "distributed"},
    "one honest client": {
        "privacy.trust": "distributed",
        "privacy.honest_clients": 1,
        "privacy.min_contributors": 2,
    },
    "several architectures": {"clients.architectures": "mlp,cnn,scatter_head"},
    "very uneven clients": {"partition.kind": "dirichlet", "partition.alpha": 0.01},
    "another global model": {"global_model.architecture": "cnn"},
}


def check(place: Path, epsilon: float | str, name: str, changes: dict[str, Any]) -> None:
    outcome = tiny_train(place, "--epsilon", epsilon, **changes)
    assert outcome.status == 0, f"{name}: {outcome.err}"
    if epsilon == "inf":
        assert outcome.json["epsilon"] == "inf"
    else:
        assert 0.99 * epsilon <= outcome.json["epsilon"] <= epsilon
    assert 0 <= outcome.json["accuracy"] <= 1
    assert command("verify", place / "run").status == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_of_other_parts(name: str, tmp_path: Path):
    check(tmp_path, "inf", name, VARIANTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS | MORE_VARIANTS)
@pytest.mark.parametrize("epsilon", [1.0, "inf"])
def test_a_run_of_any_other_parts(name: str, epsilon: float | str, tmp_path: Path):
    check(tmp_path, epsilon, name, (VARIANTS | MORE_VARIANTS)[name])


def test_fine_tuning_and_every_round_of_the_classifiers_are_charged(tmp_path: Path):
    check(tmp_path, "inf", "fine-tuning", {**FINE_TUNED, "classifier.rounds": 2})
    excerpts = json.loads((tmp_path / "run" / "ledgers.json").read_bytes())["excerpts"]
    for excerpt in excerpts.values():
        made = [(release["release"], release["round"]) for release in excerpt["releases"]]
        assert ("fine_tune", 0) in made and made.count(("classifier", 1)) == 1 and len(made) == 7


@pytest.mark.slow
def test_the_ablation_table_costs_nothing(tmp_path: Path):
    outcome = tiny_train(tmp_path, "--epsilon", "inf", "--ablate")
    assert outcome.status == 0, outcome.err
    rows = outcome.json["ablation"]
    assert len(rows) >= 4 and len(list(tmp_path.rglob("releases/*/*.bin"))) == 3 * 5


def model(place: Path, name: str, **changes: Any) -> bytes:
    outcome = tiny_train(place / name, "--epsilon", "4", **(REPEATABLE | changes))
    assert outcome.status == 0, outcome.err
    assert "WARNING" in outcome.err and "protects nobody" in outcome.err
    return (place / name / "run" / "global_model.safetensors").read_bytes()


def test_workers_and_one_process_give_one_model(tmp_path: Path):
    assert model(tmp_path, "one") == model(tmp_path, "two", engine__workers=2)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs mosaic-secure[simulation]")
def test_the_simulation_engine_gives_the_same_model(tmp_path: Path):
    simulated = model(tmp_path, "two", engine__name="simulation", engine__workers=2)
    assert simulated == model(tmp_path, "one")


@pytest.mark.slow
def test_another_seed_gives_another_model(tmp_path: Path):
    assert model(tmp_path, "one") != model(tmp_path, "two", seed=1)


def test_the_servers_work_runs_on_a_gpu(tmp_path: Path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    outcome = tiny_train(tmp_path, "--device", "cuda")
    assert outcome.status == 0 and outcome.json["device"] == "cuda", outcome.err
    assert command("verify", tmp_path / "run").status == 0
