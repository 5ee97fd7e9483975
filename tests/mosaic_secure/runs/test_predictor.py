from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mosaic_secure
from mosaic_secure.errors import UserError
from mosaic_secure.models.registry import build_classifier
from mosaic_secure.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


def test_predicts_what_the_network_says(small_run: Path, images: np.ndarray):
    predictor = mosaic_secure.load(small_run)
    probabilities = predictor.predict_proba(images)
    module = build_classifier("cnn", (1, 8, 8), 3, seed=6).eval()
    with torch.inference_mode():
        expected = module(torch.from_numpy(images / np.float32(255))).softmax(1).numpy()
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    labels = predictor.predict(images)
    assert labels.dtype == np.int64 and np.array_equal(labels, expected.argmax(axis=1))
    assert predictor.class_names == ("cat", "dog", "owl") and predictor.num_classes == 3


def test_every_form_of_the_same_images_gives_the_same_answer(small_run: Path, images: np.ndarray):
    predictor = mosaic_secure.load(small_run)
    expected = predictor.predict_proba(images)
    floats = images / np.float32(255)
    pictures = [Image.fromarray(image[0]) for image in images]
    forms = [floats, floats.astype(np.float64), images[:, 0], images.transpose(0, 2, 3, 1)]
    for form in [*forms, torch.from_numpy(floats), pictures]:
        assert np.allclose(predictor.predict_proba(form), expected, atol=1e-6)
    for single in (images[0], images[0, 0], images[0].transpose(1, 2, 0), pictures[0]):
        assert np.allclose(predictor.predict_proba(single), expected[:1], atol=1e-6)


def test_no_images_give_no_rows(small_run: Path):
    assert mosaic_secure.load(small_run).predict_proba(np.zeros((0, 1, 8, 8), np.uint8)).shape == (0, 3)


def test_many_images_equal_one_at_a_time(small_run: Path):
    predictor = mosaic_secure.load(small_run)
    many = np.random.default_rng(1).random((300, 8, 8), dtype=np.float32)
    assert np.allclose(predictor.predict_proba(many)[290:], predictor.predict_proba(many[290:]), atol=1e-6)


def test_pictures_of_any_size_and_mode(small_run: Path, tmp_path: Path, write_small_run):
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    assert mosaic_secure.load(small_run).predict(picture).shape == (1,)
    colour = mosaic_secure.load(write_small_run(tmp_path / "colour", image_shape=(3, 16, 16)))
    for mode in ("RGB", "L", "RGBA", "P", "1"):
        assert colour.predict([picture.convert(mode)]).shape == (1,)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (np.zeros((2, 1, 9, 8), np.uint8), r"\[2, 1, 9, 8\].*\[N, 1, 8, 8\]"),
        (np.full((1, 8, 8), 255.0), r"from 255 to 255.*\[0, 1\]"),
        (np.full((1, 8, 8), np.nan), "nan"),
        (np.full((1, 8, 8), -0.1), "-0.1"),
        (np.zeros((1, 8, 8), np.int64), "int64"),
        (np.array("x"), "expected"),
        ([np.zeros((8, 8)), np.zeros((9, 9))], "different shapes"),
        (Image.new("I;16", (8, 8)), "range"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(small_run: Path, wrong: object, named: str):
    with pytest.raises(UserError, match=named) as caught:
        mosaic_secure.load(small_run).predict(wrong)
    assert "\n" not in str(caught.value)


def test_no_run_an_unfinished_run_and_a_damaged_one(small_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="not a run directory"):
        mosaic_secure.load(tmp_path)
    RunDirectory.create(tmp_path / "open").close()
    with pytest.raises(UserError, match="not finished"):
        mosaic_secure.load(tmp_path / "open")
    copy = shutil.copytree(small_run, tmp_path / "copy")
    weights = copy / "global_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"global_model\.safetensors is damaged"):
        mosaic_secure.load(copy)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    with RunDirectory.create(tmp_path / "run") as run:
        run.write_json(
            "model.json",
            {
                "architecture": "mlp",
                "options": {},
                "image_shape": [1, 8, 8],
                "num_classes": 3,
                "class_names": [],
                "seed": 0,
            },
        )
        run.write_tensors("global_model.safetensors", {"w": np.ones(2)})
        run.seal({})
    with pytest.raises(UserError, match="do not fit"):
        mosaic_secure.load(tmp_path / "run")
