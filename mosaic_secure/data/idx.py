"""MNIST-like data: idx files in the torchvision layout, unpacked or as the downloaded ``.gz``."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from mosaic_secure.data.records import RawRecords
from mosaic_secure.errors import UserError

_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_UNSIGNED_BYTES = 0x08


def has_idx(name: str, root: Path) -> bool:
    """Whether ``root`` holds all four files of ``mnist`` or ``fashion_mnist``."""
    folder = root / _FOLDERS[name] / "raw"
    return all(
        _find(folder, f"{part}-{kind}") is not None
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )


def idx_place(name: str) -> str:
    """The files that ``read_idx`` looks for, in words relative to the root."""
    return f"{_FOLDERS[name]}/raw/train-images-idx3-ubyte(.gz) and its three companions"


def read_idx(name: str, root: Path, train: bool) -> RawRecords:
    """Read one part of ``mnist`` or ``fashion_mnist``; nothing is written, so a read-only root will do.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = root / _FOLDERS[name] / "raw"
    part = "train" if train else "t10k"
    images = _read(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise UserError(f"{folder}: the {part} files hold {len(images)} images but {len(labels)} labels")
    return RawRecords(images[:, None], labels.astype(np.int64))


def download_idx(name: str, root: Path) -> None:
    """Fetch the files into ``root`` through torchvision."""
    from torchvision import datasets

    kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    kind(root=str(root), train=True, download=True)


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: Path, name: str, dimensions: int) -> np.ndarray:
    path = _find(folder, name)
    if path is None:
        raise UserError(f"{folder / name}: missing (plain or .gz); --data-root must hold it")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, given = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error):
        raise UserError(f"{path}: damaged; fetch it again") from None
    start = 4 + 4 * dimensions
    if zeros or kind != _UNSIGNED_BYTES or given != dimensions or len(content) - start != math.prod(shape):
        raise UserError(f"{path}: damaged, or not an idx file of {dimensions} dimensions; fetch it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
