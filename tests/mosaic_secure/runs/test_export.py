from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mosaic_secure
from mosaic_secure.errors import UserError
from mosaic_secure.runs import export as exporting
from mosaic_secure.runs.export import export
from mosaic_secure.runs.predictor import Predictor

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs mosaic-secure[onnx]",
)


def test_torch_export_computes_the_same_for_any_number_of_images(small_run: Path, tmp_path: Path):
    report = export(small_run, "torch-export", tmp_path / "model.pt2")
    assert report.checked_with == "torch.export" and report.max_difference < 1e-5
    extra = {"model.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["model.json"])["class_names"] == ["cat", "dog", "owl"]
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = mosaic_secure.load(small_run).predict_proba(images)
    assert np.allclose(module(images).softmax(1).numpy(), expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@needs_onnx
def test_onnx_computes_the_same_for_any_number_of_images(small_run: Path, tmp_path: Path):
    import onnx
    import onnxruntime

    report = export(small_run, "onnx", tmp_path / "model.onnx")
    assert report.checked_with == "onnxruntime" and report.max_difference < 1e-4
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    described = {entry.key: entry.value for entry in model.metadata_props}["mosaic-secure"]
    assert json.loads(described)["class_names"] == ["cat", "dog", "owl"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images = np.random.default_rng(0).random((7, 1, 8, 8), dtype=np.float32)
    (logits,) = session.run(["logits"], {"images": images})
    expected = mosaic_secure.load(small_run).predict(images)
    assert np.array_equal(logits.argmax(axis=1), expected)


CODE = {"dim": 64, "pixel_side": 8, "pixel_weight": 0.3}


@needs_onnx
@pytest.mark.parametrize(
    ("architecture", "image_shape", "options"),
    [
        ("prototype_head", (1, 8, 8), {"encoder": "fourier", **CODE}),
        ("prototype_head", (1, 28, 28), {"encoder": "scattering", "hidden": 8, **CODE}),
        pytest.param(
            "prototype_head", (3, 32, 32), {"encoder": "scattering", **CODE}, marks=pytest.mark.slow
        ),
        ("prototype_head", (1, 28, 28), {"encoder": "wavelets", **CODE}),
        pytest.param("prototype_head", (3, 32, 32), {"encoder": "wavelets", **CODE}, marks=pytest.mark.slow),
        ("prototype_head", (1, 28, 28), {"encoder": "pixels", "pixel_side": 14}),
        ("scatter_head", (1, 8, 8), {"dim": 64}),
        pytest.param("scatter_head", (1, 28, 28), {"dim": 64}, marks=pytest.mark.slow),
        pytest.param("scatter_head", (3, 32, 32), {"dim": 64}, marks=pytest.mark.slow),
    ],
)
def test_heads_on_public_encoders_export(write_small_run, tmp_path, architecture, image_shape, options):
    run = write_small_run(tmp_path / "run", architecture=architecture, image_shape=image_shape, **options)
    trained = mosaic_secure.load(run)
    for parameter in trained.module.head.parameters():  # a fresh head may be all zero
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "load", lambda _: trained)
        for format in exporting.FORMATS:
            assert export(run, format, tmp_path / "model").max_difference < 1e-4
    images = torch.rand(40, *image_shape, generator=torch.Generator().manual_seed(1))
    module = torch.export.load(tmp_path / "model").module()
    with torch.inference_mode():
        assert torch.allclose(module(images), trained.module(images), atol=1e-4)


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("architecture", ["cnn_wide", "mlp", "resnet18", "mobilenet_v3_small"])
def test_every_architecture_exports(write_small_run, tmp_path: Path, architecture: str):
    run = write_small_run(tmp_path / "run", architecture=architecture, image_shape=(3, 32, 32))
    for format in exporting.FORMATS:
        assert export(run, format, tmp_path / "model").max_difference < 1e-3


class LoopOverBatch(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.mean(dim=(1, 2)) for part in images.split(2)])


class ComplexNumbers(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(images).unsqueeze(1).abs().mean(dim=(1, 2, 3))


@needs_onnx
@pytest.mark.parametrize(
    ("module", "format", "named"),
    [
        (LoopOverBatch(), "onnx", "cannot hold cnn for any number of images"),
        (LoopOverBatch(), "torch-export", "cannot trace cnn for any number of images"),
        (ComplexNumbers(), "onnx", "no form for a part of cnn; try --format torch-export"),
    ],
)
def test_what_a_format_cannot_express_is_refused(small_run, tmp_path, monkeypatch, module, format, named):
    predictor = Predictor(module, mosaic_secure.load(small_run).spec)
    monkeypatch.setattr(exporting, "load", lambda _: predictor)
    with pytest.raises(UserError, match=named):
        export(small_run, format, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(small_run: Path, tmp_path: Path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        exporting.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(UserError, match=r"onnxscript: pip install 'mosaic-secure\[onnx\]'"):
        export(small_run, "onnx", tmp_path / "model.onnx")


def test_a_file_that_computes_something_else_is_not_kept(small_run: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "model.pt2").write_text("before")

    def wrong(predictor, path: Path):
        path.write_text("after")
        return "a test", lambda images: predictor.module(images).numpy() + 0.01

    monkeypatch.setattr(exporting, "_write_torch", wrong)
    with pytest.raises(UserError, match="differ by 0.01"):
        export(small_run, "torch-export", tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_format_and_target(small_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="onnx, torch-export"):
        export(small_run, "pickle", tmp_path / "x")
    for target in (tmp_path, tmp_path / "nowhere" / "x"):
        with pytest.raises(UserError, match="--to"):
            export(small_run, "torch-export", target)
