"""Every baseline under the same budget, ledger and protocol as Mosaic; and the layers of its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_secure.client.training import train_classifier
from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.config.layers import METHODS
from mosaic_secure.errors import UserError
from mosaic_secure.models.registry import build_classifier
from mosaic_secure.plan import build_plan
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.predictor import load
from mosaic_secure.server import enrolment
from mosaic_secure.server.dense import generator_loss
from privacy.dpsgd import DPSGDPlan
from privacy.randomness import NoiseSource

from .disclosures import assert_exact
from .tiny import CLIENTS, command, tiny_train

ROUNDS = {
    "fine_tune.rounds": 2,
    "fine_tune.steps": 2,
    "fine_tune.sample_rate": 0.5,
    "fine_tune.learning_rate": 0.5,
}
ONE_NET = {"clients.architectures": "mlp", "global_model.architecture": "mlp"}
TINY_DENSE = {"dense.rounds": 2, "dense.generator_steps": 2, "dense.batch": 16, "dense.latent_dim": 4}
CHANGES: dict[str, dict[str, Any]] = {
    "fedavg": ROUNDS | ONE_NET,
    "fedprox": ROUNDS | ONE_NET,
    "local": {"clients.architectures": "mlp,cnn"},
    "dense": TINY_DENSE | {"clients.architectures": "mlp,cnn", "global_model.architecture": "mlp"},
    "central": {"clients.count": 1, "fine_tune.steps": 4} | ONE_NET,
}
AVERAGED = {("counts", 0), ("fine_tune", 0), ("fine_tune", 1)}
PLANNED = {
    "fedavg": AVERAGED,
    "fedprox": AVERAGED,
    "local": {("classifier", 0)},
    "dense": {("counts", 0), ("classifier", 0)},
    "central": {("fine_tune", 0)},
}


def train(place: Path, method: str, *options: object, **changes: Any):
    return tiny_train(place, "--method", method, *options, **{**CHANGES[method], **changes})


@pytest.fixture(scope="module", params=sorted(CHANGES))
def run(request, tmp_path_factory) -> tuple[str, Path, Any]:
    """A finished tiny run of each method; do not change it."""
    place = tmp_path_factory.mktemp(request.param)
    outcome = train(place, request.param)
    assert outcome.status == 0, outcome.err
    return request.param, place, outcome


def test_a_method_spends_its_budget_on_what_it_planned_and_nothing_else(run):
    method, place, outcome = run
    assert 0.99 * 4 <= outcome.json["epsilon"] <= 4
    assert outcome.json["method"] == method
    excerpts = json.loads((place / "run" / "ledgers.json").read_bytes())["excerpts"]
    assert set(excerpts) == ({"client-0"} if method == "central" else set(CLIENTS))
    for excerpt in excerpts.values():
        made = [(release["release"], release["round"]) for release in excerpt["releases"]]
        assert len(made) == len(set(made)) and set(made) == PLANNED[method]
    assert command("verify", place / "run").status == 0
    home = next((place / "ledgers").glob("*/client-0/ledger.jsonl"))
    assert command("ledger", "verify", home).status == 0


def test_a_client_was_told_beforehand_what_it_then_sent(run):
    _, place, _ = run
    assert_exact(place / "run", place / "ledgers", "client-0")


def test_metrics_name_what_was_measured(run):
    method, place, outcome = run
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {row["of"]: row["value"] for row in rows if row["metric"] == "accuracy"}
    name = "local mean" if method == "local" else "global"
    for metric, field in (("balanced accuracy", "balanced_accuracy"), ("auc", "auc")):
        scored = {row["of"]: row["value"] for row in rows if row["metric"] == metric}
        assert scored[name] == outcome.json[field] and 0 <= scored[name] <= 1
        assert ("teacher" in scored) == (method == "dense")
    if method == "local":
        each = [found[f"local/{client}"] for client in CLIENTS]
        assert "global" not in found
        assert found["local mean"] == pytest.approx(np.mean(each)) == outcome.json["accuracy"]
        assert (found["local min"], found["local max"]) == (min(each), max(each))
    else:
        assert found["global"] == outcome.json["accuracy"]


def test_the_statement_claims_no_encryption_where_there_is_none(run):
    method, place, _ = run
    statement = json.loads((place / "run" / "privacy.json").read_bytes())
    assert statement["method"] == method and statement["encryption"] is None
    assert not any(row["encrypted"] for row in statement["mechanisms"])
    roles = {row["role"]: row for row in statement["trust_map"]}
    assert "no encryption" in roles["authority"]["holds"]
    said = json.dumps(statement)
    for word in ("ciphertext", "decrypt", "secret key"):
        assert word not in said, word


def test_the_model_predicts_or_a_local_run_says_that_it_has_none(run, tmp_path: Path):
    method, place, _ = run
    image = tmp_path / "one.npy"
    np.save(image, np.zeros((1, 8, 8), dtype=np.float32))
    if method == "local":
        export = ["--format", "torch-export", "--to", tmp_path / "m.pt2"]
        for refused in (command("predict", place / "run", image), command("export", place / "run", *export)):
            assert "no global model" in refused.refusal
        assert len(list((place / "run" / "classifiers").glob("*.safetensors"))) == len(CLIENTS)
    else:
        assert load(place / "run").predict(np.zeros((8, 8), dtype=np.float32)).shape == (1,)
        assert command("predict", place / "run", image).status == 0
    synth = command("synth", place / "run", "--count", 4, "--to", tmp_path / "drawn")
    if method == "dense":
        assert synth.status == 0, synth.err
    else:
        assert "has no generators" in synth.refusal


def test_central_holds_every_record(run):
    method, place, _ = run
    with np.load(place / "run" / "membership.npz") as members:
        sizes = {name: len(members[name]) for name in members.files}
    assert sum(sizes.values()) == 240
    if method == "central":
        assert sizes == {"client-0": 240}


@pytest.mark.parametrize("method", sorted(CHANGES))
def test_a_run_that_is_stopped_goes_on_without_spending_again(method: str, tmp_path: Path, monkeypatch):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "finish", stop)
        assert train(tmp_path, method).status == 130
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    resumed = command("train", "--resume", *places, "--json")
    assert resumed.status == 0, resumed.err
    clients = 1 if method == "central" else len(CLIENTS)
    assert len(list(tmp_path.rglob("releases/*/*.bin"))) == clients * len(PLANNED[method])
    assert command("verify", tmp_path / "run").status == 0


def model(place: Path, method: str, **changes: Any) -> bytes:
    outcome = train(place, method, **{"privacy.insecure_reproducible_noise": True, **changes})
    assert outcome.status == 0, outcome.err
    return (place / "run" / "global_model.safetensors").read_bytes()


def test_fedprox_without_its_term_is_fedavg(tmp_path: Path):
    plain = model(tmp_path / "a", "fedavg")
    assert model(tmp_path / "b", "fedprox", **{"fine_tune.proximal": 0}) == plain
    assert model(tmp_path / "c", "fedprox", **{"fine_tune.proximal": 0.5}) != plain


def test_the_proximal_term_is_the_gradient_of_the_distance_and_nothing_else():
    def after(steps: int, proximal: float) -> torch.Tensor:
        net = build_classifier("mlp", (1, 8, 8), 10, 3)
        plan = DPSGDPlan(0.5, 0.5, steps, 1.0, 20.0, learning_rate=0.3)
        images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        train_classifier(net, images, torch.arange(40) % 10, plan, NoiseSource(bytes(32), "x"), 1, proximal)
        return torch.cat([value.detach().flatten() for value in net.parameters()])

    start = torch.cat([v.detach().flatten() for v in build_classifier("mlp", (1, 8, 8), 10, 3).parameters()])
    first, second = after(1, 0.0), after(2, 0.0)
    assert torch.equal(after(1, 0.7), first)  # no pull at the start
    torch.testing.assert_close(after(2, 0.7), second - 0.3 * 0.7 * (first - start))


def test_the_loss_of_dense_rewards_agreed_labels_and_disagreement_with_the_student():
    labels = torch.tensor([0, 1])
    sure = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).log_softmax(-1)
    same, other = sure, sure.flip(1)
    plain = generator_loss(sure, same, labels, 0.0, 0.0)
    assert plain < generator_loss(sure, same, labels.flip(0), 0.0, 0.0)
    assert generator_loss(sure, same, labels, 1.0, 0.0) == plain  # where they agree nothing is won
    assert generator_loss(sure, other, labels, 1.0, 0.0) < plain
    collapsed = sure[[0, 0]]
    assert generator_loss(collapsed, same, labels, 0.0, 1.0) > generator_loss(collapsed, same, labels, 0, 0)


@pytest.mark.parametrize("config", ["digits", "fashion_mnist", "mnist", "pneumonia", "cifar10"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_every_ready_run_can_be_planned(method: str, config: str):
    chosen = load_config(config, {"method": method})
    plan = build_plan(chosen)
    assert 0.99 * plan.budget.target_epsilon <= plan.budget.epsilon <= plan.budget.target_epsilon
    assert RunConfig.from_dict(chosen.to_dict()) == chosen  # what is stored needs no layers
    assert plan.cost()["exchanges_per_client"] >= 3


FILE = """
[classifier]
steps = 7
[fine_tune]
learning_rate = 0.01
[prototypes]
enabled = true
[methods.fedavg.fine_tune]
rounds = 3
steps = 5
[presets.synthetic.distill]
generator_part = 0.9
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return path


def test_what_is_set_by_hand_wins_over_the_table_the_method_and_the_file(file: Path):
    fedavg = load_config(file, {"method": "fedavg", "fine_tune.steps": 9})
    assert (fedavg.fine_tune.rounds, fedavg.fine_tune.steps) == (3, 9)
    assert fedavg.fine_tune.learning_rate == 0.5  # the method's own, not the 0.01 of the file
    assert not fedavg.prototypes.enabled
    assert load_config(file).fine_tune.learning_rate == 0.01
    assert load_config(file, {"method": "local"}).classifier.steps == 7


def test_a_preset_is_laid_over_the_plain_settings(file: Path):
    assert load_config(file).distill.generator_part == 0.25
    synthetic = load_config(file, {"preset": "synthetic"})
    assert (synthetic.distill.generator_part, synthetic.preset) == (0.9, "synthetic")


def test_the_clients_train_the_global_model_unless_told_otherwise():
    assert load_config("pneumonia", {"method": "fedavg"}).clients.architectures == ("cnn",)
    wide = load_config("pneumonia", {"method": "fedavg", "global_model.architecture": "cnn_wide"})
    assert wide.clients.architectures == ("cnn_wide",)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"method": "fedavg", "clients.architectures": "cnn,mlp"},
            ["clients.architectures", "'mlp'", "'cnn'"],
        ),
        ({"method": "fedavg", "fine_tune.proximal": 0.1}, ["fine_tune.proximal = 0.1", "'fedprox'"]),
        ({"method": "fedavg", "prototypes.enabled": True}, ["prototypes.enabled = true", "must be false"]),
        ({"method": "fedprox", "fine_tune.rounds": 0}, ["fine_tune.rounds = 0", "at least 1"]),
        ({"method": "local", "privacy.trust": "distributed"}, ["privacy.trust", "'local'"]),
        ({"method": "local", "classifier.rounds": 2}, ["classifier.rounds = 2", "must be 1"]),
        ({"method": "local", "distill.enabled": True}, ["distill.enabled = true", "'local'"]),
        ({"method": "dense", "fine_tune.rounds": 2}, ["fine_tune.rounds = 2", "'dense'"]),
        ({"method": "dense", "generator.enabled": True}, ["generator.enabled = true", "'dense'"]),
        ({"method": "central", "clients.count": 4}, ["clients.count = 4", "must be 1"]),
        ({"method": "central", "data.visibility": "private"}, ["'central'", "public data only"]),
        ({"clients.count": 1}, ["clients.count = 1", "at least 2", "'central'"]),
        ({"method": "fedavg", "preset": "synthetic"}, ["preset = 'synthetic'", "'fedavg'"]),
        ({"method": "fedavgg"}, ["method = 'fedavgg'", "'fedavg'"]),
        ({"preset": "speed"}, ["preset = 'speed'", "'synthetic'"]),
        ({"method": "local", "privacy.shares.counts": 0.1}, ["privacy.shares.counts", "'local'"]),
    ],
)
def test_contradictions_are_refused_in_one_line(overrides: dict[str, Any], words: list[str]):
    with pytest.raises(UserError) as caught:
        load_config("digits", overrides)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("[methods.fedsgd.privacy]\nepsilon = 1", {}, ["[methods.fedsgd]", "fedavg"]),
        ("[methods.mosaic.privacy]\nepsilon = 1", {}, ["[methods.mosaic]", "its own"]),
        ("[presets.speed.gate]\nsteps = 1", {}, ["[presets.speed]", "synthetic"]),
        ("[methods.fedavg]\nseed = 3", {"method": "fedavg"}, ["[methods.fedavg] seed", "section"]),
        ("methods = 3", {}, ["methods must hold tables"]),
        ("[methods.fedavg.privcy]\nepsilon = 1", {"method": "fedavg"}, ["privcy", "unknown"]),
        ("[methods.fedavg.privacy]\nepsilom = 1", {"method": "fedavg"}, ["privacy.epsilom", "unknown"]),
        ("privacy = 3", {"method": "fedavg"}, ["privacy = 3", "section"]),
        ("[gate]\nsteps = 3", {"preset": "synthetic"}, ["no [presets.synthetic]"]),
    ],
)
def test_wrong_tables_of_a_file_are_refused_in_one_line(tmp_path: Path, text: str, overrides, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("method", sorted(CHANGES))
def test_plan_and_dry_run_of_a_method(method: str, tmp_path: Path):
    budget = command("budget", "--method", method, "--json")
    assert budget.status == 0, budget.err
    assert {row["release"] for row in budget.json["releases"]} == {name for name, _ in PLANNED[method]}
    dry = train(tmp_path, method, "--dry-run")
    assert dry.status == 0 and not (tmp_path / "run").exists()


def test_the_ablation_is_of_mosaic_only(tmp_path: Path):
    assert "--ablate" in train(tmp_path, "fedavg", "--ablate").refusal
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_method(tmp_path: Path):
    assert train(tmp_path, "fedavg").status == 0
    stored = RunConfig.from_dict(RunDirectory.open(tmp_path / "run").manifest["config"])
    assert (stored.method, stored.fine_tune.rounds) == ("fedavg", 2)


def test_features_of_a_fixed_trunk_are_kept_for_the_run_and_forgotten_after_it(tmp_path: Path):
    net = {"clients.architectures": "scatter_head", "global_model.architecture": "scatter_head"}
    outcome = train(tmp_path, "fedavg", **net)
    assert outcome.status == 0, outcome.err
    assert not list((tmp_path / "ledgers").rglob("features-*"))
