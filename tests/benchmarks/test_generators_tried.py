"""The tool that holds generators against each other: budgets, rows, and how the autoencoder is trained."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mosaic_secure.config import load_config
from privacy.dpsgd import DPSGDPlan
from privacy.randomness import NoiseSource

SHORT = ["generator.steps=2", "classifier.steps=2", "generator.warmup=2", "generator.batch=8"]


@pytest.fixture(scope="module")
def tool(load) -> ModuleType:
    return load("generators_tried")


@pytest.fixture(scope="module")
def vae(tool: ModuleType) -> ModuleType:
    return importlib.import_module("conditional_vae")  # the tool has put its folder on the path


@pytest.fixture(scope="module")
def args() -> argparse.Namespace:
    return argparse.Namespace(config="digits", honest=3, set=SHORT)


@pytest.fixture(scope="module")
def records(tool: ModuleType) -> object:
    return tool.Records(load_config("digits"), 400, 0)


def test_every_candidate_has_the_same_share_of_the_budget(tool: ModuleType, args: argparse.Namespace) -> None:
    for name, candidate in tool.CANDIDATES.items():
        shares = tool.config_of(args, 0, "0.1", "4", candidate.settings).privacy.shares
        assert shares.sampler + shares.generator == pytest.approx(tool.SHARE), name
        assert (shares.prototypes, shares.counts, shares.classifier) == (0.30, 0.02, 0.12), name


def rows_of(tool: ModuleType, folder: Path, *words: str) -> dict:
    command = ["sample", "--config", "digits", "--honest", "3", "--records", "400", "--synthetic", "400"]
    command += [word for item in SHORT for word in ("--set", item)]
    tool.main([*command, *words, "--results", str(folder)])
    return json.loads((folder / "bakeoff_sample.json").read_text(encoding="utf-8"))


def test_a_row_comes_out_for_each_candidate(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_secure.server.fresh_student._LEAST_STEPS", 60)
    record = rows_of(tool, tmp_path)
    assert record["cells"] == ["α 0.1, ε 4"]
    assert "--results" not in record["command"]
    rows = {row["candidate"]: row["runs"]["α 0.1, ε 4"] for row in record["rows"]}
    assert list(rows) == list(tool.CANDIDATES)
    assert all(len(row["asked"]) == len(row["expert"]) == 1 for row in rows.values())
    assert rows["real records, no privacy"]["asked"][0] > 0.4 > rows["DCGAN"]["asked"][0]  # of two steps
    lines = tool.table(record).splitlines()
    assert len(lines) == 2 + len(rows)
    first = rows["class sampler"]
    assert lines[2] == f"| class sampler | {first['asked'][0]:.4f} / {first['expert'][0]:.4f} |"


def test_what_no_partition_moves_is_run_once(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_secure.server.fresh_student._LEAST_STEPS", 5)
    (row,) = rows_of(tool, tmp_path, "--only", "class sampler", "--alphas", "0.1,1000")["rows"]
    assert row["runs"]["α 0.1, ε 4"] == row["runs"]["α 1000, ε 4"]


def test_the_class_sampler_does_not_depend_on_who_holds_what(
    tool: ModuleType, args: argparse.Namespace, records: object
) -> None:
    settings = tool.CANDIDATES["class sampler"].settings
    worlds = [tool.World(tool.plan_of(args, 0, alpha, "4", settings), records) for alpha in ("0.1", "1000")]
    assert worlds[0].clients["client-0"].tolist() != worlds[1].clients["client-0"].tolist()
    skewed, even = (world.class_sampler().model.means for world in worlds)
    assert torch.allclose(skewed, even, atol=2e-3)


def test_the_autoencoder_is_one_release_under_the_plan(
    tool: ModuleType,
    vae: ModuleType,
    args: argparse.Namespace,
    records: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def recorded(model, loss, given, plan, noise, **more):
        before = [value.detach().clone() for value in model.parameters()]
        private(model, loss, given, plan, noise, **more)
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        calls.append((model, given, plan, noise.label, all(moved)))

    private = vae.train_private
    monkeypatch.setattr(vae, "train_private", recorded)
    wanted = tool.plan_of(args, 0, "0.1", "4", tool.CANDIDATES["VAE"].settings)
    world = tool.World(wanted, records)
    decoders = world.vae()
    assert len(calls) == len(decoders) == 5
    planned = wanted.budget.release("generator")
    for (model, given, plan, _, moved), part, decoder in zip(
        calls, world.clients.values(), decoders, strict=True
    ):
        assert moved and model.decoder is decoder
        assert len(given[0]) == len(part)
        assert plan.noise_multiplier == pytest.approx(planned.noise_multiplier * 400 / records.total)
        assert (plan.sample_rate, plan.steps) == (planned.sample_rate, planned.steps) == (0.2, 2)
        assert (plan.max_grad_norm, plan.expected_batch_size) == (1.0, 0.2 * len(part))
    assert len({label for *_, label, _ in calls}) == 5  # no two clients draw the same noise


def test_the_autoencoder_learns_what_its_labels_mean(vae: ModuleType) -> None:
    model = vae.build((1, 8, 8), 2, latent_dim=2, seed=0)
    labels = torch.arange(64) % 2
    images = (0.2 + 0.6 * labels.float())[:, None, None, None].expand(-1, 1, 8, 8).clone()
    plan = DPSGDPlan(
        noise_multiplier=0.0,
        sample_rate=0.5,
        steps=80,
        max_grad_norm=1.0,
        expected_batch_size=32.0,
        learning_rate=2e-2,
        optimizer="adam",
    )
    vae.train(model, images, labels, plan, NoiseSource(bytes(32), "test"))
    with torch.no_grad():
        drawn = model.decoder(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), labels[:40])
    means = [float(drawn[labels[:40] == label].mean()) for label in (0, 1)]
    assert means == pytest.approx([0.2, 0.8], abs=0.1)
