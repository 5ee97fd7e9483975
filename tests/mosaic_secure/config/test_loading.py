from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

import mosaic_secure
from mosaic_secure.config import RunConfig, config_folder, config_hash, config_names, load_config
from mosaic_secure.errors import UserError

PRIVATE_FOLDER = {
    "data.path": "images",
    "data.class_names": "cat,dog",
    "data.declared_records": "40",
    "data.population": "pets",
}


def refusal(overrides, name="digits") -> str:
    with pytest.raises(UserError) as caught:
        load_config(name, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_every_ready_configuration_is_valid():
    assert set(config_names()) == {
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar10_subset",
        "pneumonia",
        "folder",
    }
    for name in config_names():
        config = load_config(name, PRIVATE_FOLDER if name == "folder" else None)
        assert config.data.dataset == name


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_ready_configurations_keep_the_learned_parts_real(name):
    shares = load_config(name).privacy.shares
    assert shares.classifier >= 0.15
    assert shares.generator >= 0.15


def test_default_architectures_form_a_group_of_two_and_one_of_one():
    sizes = sorted(len(group) for group in load_config("digits").architecture_groups.values())
    assert sizes[0] == 1
    assert 2 in sizes


@pytest.mark.parametrize("epsilon", ["4", "inf"])
def test_a_configuration_survives_json(epsilon):
    config = load_config("digits", {"privacy.epsilon": epsilon, "data.declared_records": 30})
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert RunConfig.from_dict(json.loads(text)) == config


def test_infinite_epsilon_is_written_as_a_word():
    config = load_config("digits", {"privacy.epsilon": "inf"})
    assert math.isinf(config.privacy.epsilon)
    assert config.no_noise
    assert config.to_dict()["privacy"]["epsilon"] == "inf"


def test_hash_covers_what_decides_the_result_and_nothing_else():
    base = config_hash(load_config("digits"))
    assert config_hash(load_config("digits")) == base
    assert config_hash(load_config("digits", {"engine.workers": 2, "engine.name": "simulation"})) == base
    assert config_hash(load_config("digits", {"data.root": "/elsewhere"})) == base
    for key, value in {
        "seed": 1,
        "privacy.delta": 1e-5,
        "partition.alpha": 0.2,
        "engine.device": "cpu",
    }.items():
        assert config_hash(load_config("digits", {key: value})) != base


def test_overrides_read_text_as_the_command_line_gives_it():
    config = load_config(
        "digits",
        {
            "privacy.delta": "1e-5",
            "clients.architectures": "cnn, mlp",
            "gate.enabled": "False",
            "partition.seed": "none",
            "data.population": "2024",
            "privacy": {"epsilon": ".5"},
            "global_model.options.width": "24",
        },
    )
    assert config.privacy.delta == 1e-5
    assert config.privacy.epsilon == 0.5
    assert config.privacy.trust == "local"
    assert config.clients.architectures == ("cnn", "mlp")
    assert not config.gate.enabled
    assert config.partition.seed is None
    assert config.data.population == "2024"
    assert config.global_model.options == {"width": 24}


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        ({}, {"cnn": 0.2, "cnn_wide": 0.2, "mlp": 0.4, "scatter_head": 2.0}),
        ({"classifier.learning_rate": "0.1"}, {}),
        ({"classifier.learning_rates.mlp": "0.3"}, {"mlp": 0.3}),
        ({"classifier.learning_rates": {"cnn": 1.0}, "classifier.learning_rate": 0.1}, {"cnn": 1.0}),
    ],
)
def test_a_learning_rate_is_for_all_architectures_unless_they_have_their_own(overrides, rates):
    config = load_config("digits", overrides)
    assert config.classifier.learning_rates == rates
    assert RunConfig.from_dict(config.to_dict()) == config


def test_a_configuration_cannot_be_changed():
    config = load_config("digits")
    with pytest.raises(pydantic.ValidationError):
        config.privacy.epsilon = 100.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"privacy.epsilom": "4"}, ["privacy.epsilom: unknown", "did you mean privacy.epsilon?"]),
        ({"epsilon": "4"}, ["epsilon: unknown", "privacy.epsilon"]),
        ({"privacy": {"epsilom": 4}}, ["privacy.epsilom: unknown", "privacy.epsilon"]),
        ({"nothing.like.it": 1}, ["nothing.like.it: unknown"]),
        ({"privacy.epsilon": "0"}, ["privacy.epsilon = 0", "greater than 0"]),
        ({"privacy.epsilon": "-1"}, ["privacy.epsilon", "greater than 0"]),
        ({"privacy.epsilon": "nan"}, ["privacy.epsilon = nan", "greater than 0"]),
        ({"privacy.epsilon": "four"}, ["privacy.epsilon = 'four'", "number"]),
        ({"privacy.epsilon": "true"}, ["privacy.epsilon", "number"]),
        ({"privacy.delta": "0"}, ["privacy.delta = 0", "above 0 and below 1"]),
        ({"privacy.delta": "1"}, ["privacy.delta = 1", "above 0 and below 1"]),
        ({"privacy.delta": "inf"}, ["privacy.delta = inf", "finite number"]),
        ({"data.dataset": "mnits"}, ["data.dataset = 'mnits'", "'mnist'"]),
        ({"partition.alpha": "0"}, ["partition.alpha = 0", "above 0"]),
        ({"distill.steps": "1.5"}, ["distill.steps = 1.5", "whole number at least 1"]),
        ({"clients.count": "1"}, ["clients.count = 1", "at least 2"]),
        ({"engine.device": "gpu"}, ["engine.device = 'gpu'", "'cuda'"]),
        ({"method": "nothing"}, ["method = 'nothing'", "'mosaic'"]),
        ({"schema_version": 2}, ["schema_version = 2", "must be 1"]),
        ({"privacy.shares": "5"}, ["privacy.shares = 5", "section"]),
        ({"data.declared_records": "many"}, ["data.declared_records = 'many'", "whole number"]),
    ],
)
def test_refusals_name_the_field_the_value_and_what_is_right(overrides, words):
    line = refusal(overrides)
    for word in words:
        assert word in line


def test_unknown_names_and_broken_files(tmp_path):
    assert "digits" in refusal({}, "nope")
    assert "no such file" in refusal({}, str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("[privacy\nepsilon = 4")
    assert "not valid TOML" in refusal({}, str(broken))
    broken.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal({}, broken)


def test_an_installed_package_brings_its_configurations_along(tmp_path):
    package = tmp_path / "mosaic_secure"
    shutil.copytree(
        Path(mosaic_secure.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(config_folder(), package / "configs", dirs_exist_ok=True)
    code = (
        "import mosaic_secure.config as c; print(c.__file__, c.config_folder(), c.load_config('digits').seed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    source, folder, seed = done.stdout.split()
    assert source.startswith(str(tmp_path)) and Path(folder) == package / "configs" and seed == "0"


def test_a_file_of_ones_own_needs_only_what_differs(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[privacy]\nepsilon = "inf"\n')
    assert load_config(path).no_noise


def test_the_switch_of_masks_changes_a_hash_only_where_it_is_on():
    """Digits as it was hashed before there was such a switch, so that older runs are still found."""
    plain, masked = (load_config("digits", {"privacy.pairwise_masks": on}) for on in (False, True))
    values = plain.to_dict()
    del values["privacy"]["pairwise_masks"]
    for section, name in (("data", "root"), ("data", "download")):
        del values[section][name]
    for name in ("name", "workers", "patience"):
        del values["engine"][name]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert config_hash(plain) == hashlib.sha256(text.encode()).hexdigest() != config_hash(masked)
