"""Hand the global model on as ONNX or as a PyTorch exported program, each checked before it counts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.runs.predictor import Predictor, load

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("onnx", "torch-export")
TOLERANCE = 1e-4
CHECK_SIZES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        format: ``"onnx"`` or ``"torch-export"``.
        bytes: its size.
        checked_with: what ran the file for comparison; ``None`` where onnxruntime is not installed.
        max_difference: largest difference of a logit to the model in PyTorch; ``None`` if not compared.
    """

    path: str
    format: str
    bytes: int
    checked_with: str | None
    max_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return asdict(self)


def export(run: str | Path, format: str, to: str | Path) -> ExportReport:
    """Write the global model of a run as one file that other tools load.

    The exported network maps ``images`` float32 [N, C, H, W] in [0, 1], N free, to ``logits`` float32 [N, K].
    The file is run on a few inputs and compared with PyTorch before it takes its name.

    Args:
        run: the run directory.
        format: ``"onnx"`` (needs the extra ``mosaic-secure[onnx]``) or ``"torch-export"``.
        to: the file to write; an existing file is replaced, its folder must exist.

    Raises:
        UserError: unknown format, missing packages, a bad run or target, an architecture that the
            format cannot express, or a file whose logits differ from PyTorch's by more than 1e-4 of
            their range.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    if format == "onnx":
        _require_onnx()
    target = Path(to)
    if target.is_dir() or not target.parent.is_dir():
        raise UserError(f"--to {target}: expected the name of a file in an existing folder")
    predictor = load(run)
    write, name = (_write_onnx, "model.onnx") if format == "onnx" else (_write_torch, "model.pt2")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            draft = Path(folder) / name
            with _quiet():
                checker, compute = write(predictor, draft)
            difference = None if compute is None else _compare(predictor, compute, checker)
            os.replace(draft, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return ExportReport(str(target), format, target.stat().st_size, checker, difference)


Compute = Callable[["Tensor"], np.ndarray]


def _write_torch(predictor: Predictor, path: Path) -> tuple[str | None, Compute | None]:
    import torch

    batch = torch.export.Dim("batch")
    example = (_example(predictor, 2),)
    try:
        program = torch.export.export(predictor.module, example, dynamic_shapes=({0: batch},))
    except (RuntimeError, ValueError) as error:  # what torch.export raises for code that it cannot trace
        name = predictor.spec.architecture
        raise UserError(f"torch-export cannot trace {name} for any number of images") from error
    torch.export.save(program, path, extra_files={"model.json": json.dumps(predictor.spec.to_dict())})
    module = torch.export.load(path).module()
    return "torch.export", lambda images: module(images).detach().numpy()


def _write_onnx(predictor: Predictor, path: Path) -> tuple[str | None, Compute | None]:
    import torch

    try:
        program = torch.onnx.export(
            predictor.module,
            (_example(predictor, 2),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        name = predictor.spec.architecture
        raise UserError(f"onnx has no form for a part of {name}; try --format torch-export") from error
    if isinstance(program.model.graph.inputs[0].shape[0], int):  # the exporter fixes what it cannot trace
        raise UserError(f"onnx cannot hold {predictor.spec.architecture} for any number of images")
    program.model.metadata_props["mosaic-secure"] = json.dumps(predictor.spec.to_dict())
    program.save(str(path))
    if importlib.util.find_spec("onnxruntime") is None:
        return None, None
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return "onnxruntime", lambda images: session.run(["logits"], {"images": images.numpy()})[0]


def _compare(predictor: Predictor, compute: Compute, checker: str | None) -> float:
    import torch

    largest = 0.0
    for size in CHECK_SIZES:
        images = _example(predictor, size)
        with torch.inference_mode():
            wanted = predictor.module(images).numpy()
        got = compute(images)
        difference = float(np.abs(got - wanted).max()) if got.shape == wanted.shape else np.inf
        if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise UserError(f"logits of the exported file differ by {difference:g} in {checker}")
        largest = max(largest, difference)
    return largest


def _example(predictor: Predictor, size: int) -> Tensor:
    import torch

    return torch.rand(size, *predictor.image_shape, generator=torch.Generator().manual_seed(size))


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"export to onnx needs {' and '.join(missing)}: pip install 'mosaic-secure[onnx]', "
            "or use --format torch-export"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about themselves from the user, for this call only."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
