from __future__ import annotations

import math

import pytest

from mosaic_secure.config import load_config
from mosaic_secure.errors import UserError

PRIVATE_FOLDER = {
    "data.path": "images",
    "data.class_names": "cat,dog",
    "data.declared_records": "40",
    "data.population": "pets",
}


# Prototypes without any model or generator of the clients.
ALONE = {
    "classifier.enabled": False,
    "generator.enabled": False,
    "experts.class_experts": False,
    "privacy.shares": {"prototypes": 0.9, "counts": 0.1, "classifier": 0, "generator": 0},
}


def refusal(overrides, name="digits") -> str:
    with pytest.raises(UserError) as caught:
        load_config(name, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_benchmarks_are_public_and_own_images_private_unless_said_otherwise():
    assert load_config("digits").is_public
    assert not load_config("folder", PRIVATE_FOLDER).is_public
    assert load_config("folder", {"data.path": "x", "data.visibility": "public"}).is_public


def test_overlapping_benchmarks_share_a_population():
    assert load_config("cifar10").data.population_id == load_config("cifar10_subset").data.population_id


@pytest.mark.parametrize("field", ["class_names", "declared_records", "population", "image_size", "channels"])
def test_private_data_declare_all_that_shapes_a_message(field):
    line = refusal({**PRIVATE_FOLDER, f"data.{field}": "none"}, "folder")
    assert f"data.{field}" in line
    assert "declared" in line


def test_a_benchmark_marked_private_needs_declarations_too():
    line = refusal({"data.visibility": "private"})
    assert "data.declared_records" in line and "data.population" in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.test_path": "t"}, "data.test_path names a private test set"),
        ({"data.test_path": "t", "data.test_visibility": "private"}, "private test set"),
        ({"data.test_fraction": 0.2}, "data.test_fraction"),
        ({"data.limit": 100}, "data.limit"),
        ({"privacy.insecure_reproducible_noise": True}, "privacy.insecure_reproducible_noise"),
        ({"privacy.epsilon": "inf"}, "privacy.max_epsilon_per_run"),
        ({"privacy.epsilon": 9}, "privacy.max_epsilon_per_run = 8.0"),
        ({"privacy.delta": 0.03}, "privacy.delta = 0.03 is above 1/40"),
    ],
)
def test_private_data_refuse(overrides, words):
    assert words in refusal({**PRIVATE_FOLDER, **overrides}, "folder")


def test_private_data_accept_a_public_test_set_and_a_knowingly_raised_cap():
    load_config("folder", {**PRIVATE_FOLDER, "data.test_path": "t", "data.test_visibility": "public"})
    raised = {"privacy.epsilon": "inf", "privacy.max_epsilon_per_run": "inf"}
    assert load_config("folder", {**PRIVATE_FOLDER, **raised}).no_noise


def test_private_data_have_caps_and_public_data_none_unless_set():
    private, public = load_config("folder", PRIVATE_FOLDER), load_config("digits")
    assert private.max_epsilon_lifetime < math.inf
    assert private.max_delta_lifetime < 1
    assert math.isinf(public.max_epsilon_lifetime) and math.isinf(public.max_epsilon_per_run)
    assert public.max_delta_lifetime == 1
    assert load_config("digits", {"privacy.max_epsilon_lifetime": 5}).max_epsilon_lifetime == 5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.path": "x"}, "data.path is only for"),
        ({"data.image_size": 28}, "data.image_size is only for"),
        ({"data.clients_from": "csv"}, "data.clients_from"),
        ({"data.test_fraction": 0.1}, "data.test_fraction is only for folders"),
        ({"data.declared_records.client-0": 5}, "client-1 has no number"),
        ({"data.declared_records.client-9": 5}, "data.declared_records"),
        ({"partition.kind": "given"}, "partition.path is missing"),
        ({"partition.path": "p.json"}, "partition.path is set but"),
        ({"privacy.shares.counts": 0.2}, "sum to 1.16, not 1"),
        ({"generator.enabled": False}, "privacy.shares.generator"),
        ({"fine_tune.rounds": 2}, "privacy.shares.fine_tune = 0"),
        ({"privacy.shares.fine_tune": 0.04, "privacy.shares.counts": 0.0}, "privacy.shares"),
        ({"gate.heads": 3, "gate.dim": 32}, "multiple of gate.heads"),
        ({"distill.kl": 0, "distill.ce": 0, "distill.js": 0}, "at least one term"),
        ({"experts.class_experts": False, "experts.prototype_expert": False}, "experts"),
        ({"classifier.rounds": 10, "classifier.steps": 5}, "each round needs a step"),
        ({"prototypes.encoder": "fourier", "prototypes.dim": 255}, "prototypes.dim = 255: Fourier features"),
        ({"prototypes.encoder": "wavelets", "prototypes.dim": 2048}, "prototypes.dim = 2048: the encoder"),
        ({**ALONE, "experts.enabled": False}, "experts: nothing is left to learn from"),
        ({**ALONE, "prototypes.pixel_weight": 0}, "distill: there are no synthetic records"),
        ({**ALONE, "distill.sampler": False}, "distill: there are no synthetic records"),
        ({"global_model.options": {"dim": 8}}, "global_model.options.dim: a prototype_head has the encoder"),
        ({"global_model.options": {"pixel_side": 4}}, "set prototypes.image_size"),
        ({"global_model.options": {"encoder_seed": 4}}, "set seed"),
    ],
)
def test_contradictions_are_refused(overrides, words):
    assert words in refusal(overrides)


def test_prototypes_alone_are_enough_and_a_global_model_may_have_options_of_its_own():
    assert not load_config("digits", ALONE).classifier.enabled
    load_config("digits", {"global_model.options": {"hidden": 16}})
    load_config("digits", {"global_model.architecture": "scatter_head", "global_model.options": {"dim": 64}})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.path": "none"}, "data.path is missing"),
        ({"data.clients_from": "csv"}, "data.csv is missing"),
        ({"data.csv": "t.csv"}, "data.csv is set but"),
        ({"partition.kind": "iid"}, "already gives each client its records"),
        ({"data.class_names": "cat,cat"}, "all different"),
        ({"data.class_names": "cat"}, "at least 2 names"),
        ({"data.test_visibility": "public"}, "data.test_path is not"),
        ({"data.population": "../up"}, "data.population"),
    ],
)
def test_contradictions_of_folders_are_refused(overrides, words):
    assert words in refusal({**PRIVATE_FOLDER, **overrides}, "folder")


DISTRIBUTED = {"privacy.trust": "distributed"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"privacy.honest_clients": 3}, "privacy.trust is 'local'"),
        ({**DISTRIBUTED, "privacy.honest_clients": 5}, "at most 4 of 5"),
        (
            {**DISTRIBUTED, "privacy.honest_clients": 3, "privacy.min_contributors": 3},
            "honest_clients + colluding",
        ),
        ({**DISTRIBUTED, "privacy.colluding_clients": 5}, "no honest client"),
        ({"privacy.min_contributors": 6}, "at most 5"),
        ({"privacy.min_contributors": 5, "privacy.allowed_dropouts": 1}, "at most 4"),
        ({"privacy.allowed_dropouts": 4}, "at most 3"),
    ],
)
def test_impossible_trust_is_refused(overrides, words):
    assert words in refusal(overrides)


@pytest.mark.parametrize("colluding", [1, 2])
@pytest.mark.parametrize("dropouts", [0, 1])
def test_defaults_of_distributed_trust_hold_together(colluding, dropouts):
    config = load_config(
        "digits",
        {**DISTRIBUTED, "privacy.colluding_clients": colluding, "privacy.allowed_dropouts": dropouts},
    )
    assert config.honest_clients == 5 - colluding - dropouts
    assert config.min_contributors == 5 - dropouts
    assert config.min_contributors >= config.honest_clients + colluding


def test_local_trust_counts_on_nobody_else():
    assert load_config("digits").honest_clients == 1
    assert load_config("digits").min_contributors == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"classifier.learning_rates.cn": 0.1}, "classifier.learning_rates: architecture 'cn' is unknown"),
        ({"classifier.learning_rates.cnn": 0}, "classifier.learning_rates = 0: must be above 0"),
        ({"clients.architectures": "cnn,mpl"}, "clients.architectures: architecture 'mpl' is unknown"),
        ({"global_model.architecture": "resnet"}, "did you mean 'resnet18'?"),
    ],
)
def test_architectures_are_known_by_name_before_anything_is_built(overrides, words):
    assert words in refusal(overrides)
