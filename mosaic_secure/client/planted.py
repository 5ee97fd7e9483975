"""Records that an audit puts among a client's own, or takes from them, before a run's first release.

They are records like all others: clipped, noised and charged. Who owns the client's home decides; no message
can have anything planted.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from privacy.errors import LedgerError
from privacy.storage import write_durably

if TYPE_CHECKING:
    from mosaic_secure.data.records import ClientData

__all__ = ["add_codes", "add_records", "plant_codes", "plant_records"]

_CODES = "planted-codes.npz"
_RECORDS = "planted-records.npz"


def plant_codes(folder: Path, codes: np.ndarray, labels: np.ndarray) -> None:
    """Have a run find codes beside those of the client's records; its images are as they were.

    Args:
        folder: `ClientHome.cache` of the run.
        codes: float [k, dim], as the run's encoder would give them. labels: int [k].

    Raises:
        LedgerError: the client has begun with the run.
    """
    _write(folder, _CODES, codes=codes, labels=labels)


def plant_records(
    folder: Path, images: np.ndarray, labels: np.ndarray, kept: np.ndarray | None = None
) -> None:
    """Have a run find further records, and of the client's own only some.

    The number that the plan declares stays as it was, so rates of DP-SGD do.

    Args:
        folder: `ClientHome.cache` of the run.
        images: float [k, C, H, W] in [0, 1]. labels: int [k].
        kept: bool [N], which of the client's own records stay; all where None.

    Raises:
        LedgerError: the client has begun with the run.
    """
    more = {} if kept is None else {"kept": np.asarray(kept, dtype=bool)}
    _write(folder, _RECORDS, images=images, labels=labels, **more)


def add_codes(folder: Path, codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N + k, dim] and labels [N + k] with those that were planted."""
    path = folder / _CODES
    if not path.exists():
        return codes, labels
    with np.load(path, allow_pickle=False) as planted:
        return (
            np.concatenate([codes, planted["codes"].astype(codes.dtype)]),
            np.concatenate([labels, planted["labels"].astype(labels.dtype)]),
        )


def add_records(folder: Path, data: ClientData) -> ClientData:
    """The client's records with those that were planted, and without those that were taken."""
    path = folder / _RECORDS
    if not path.exists():
        return data
    with np.load(path, allow_pickle=False) as planted:
        own = planted["kept"] if "kept" in planted.files else slice(None)
        images = np.concatenate([data.images[own], planted["images"].astype(data.images.dtype)])
        labels = np.concatenate([data.labels[own], planted["labels"].astype(data.labels.dtype)])
    return replace(data, images=images, labels=labels)


def _write(folder: Path, name: str, **arrays: np.ndarray) -> None:
    if folder.exists() and any(path.name not in (_CODES, _RECORDS) for path in folder.iterdir()):
        raise LedgerError(f"run {folder.name}: has begun at this client; planted records come before that")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_durably(folder / name, buffer.getvalue())
