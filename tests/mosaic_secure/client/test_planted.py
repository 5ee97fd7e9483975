"""What an audit plants is found among a client's records, and nothing is planted once a run has begun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mosaic_secure.client.planted import add_codes, add_records, plant_codes, plant_records
from mosaic_secure.data.records import ClientData
from privacy.errors import LedgerError


def client_data(count: int = 5) -> ClientData:
    images = np.arange(count, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32)
    return ClientData(images=images, labels=np.arange(count), num_classes=10, declared_records=count)


def test_without_planting_nothing_changes(tmp_path: Path):
    data = client_data()
    assert add_records(tmp_path / "run", data) is data
    codes, labels = add_codes(tmp_path / "run", data.images[:, 0, 0], data.labels)
    assert len(codes) == 5 and np.array_equal(labels, data.labels)


def test_records_are_added_and_taken_and_the_declared_number_stays(tmp_path: Path):
    kept = np.array([True, False, True, False, False])
    plant_records(tmp_path / "run", np.full((2, 1, 2, 2), 9.0), np.array([7, 8]), kept)
    found = add_records(tmp_path / "run", client_data())
    assert found.images[:, 0, 0, 0].tolist() == [0, 2, 9, 9]
    assert found.labels.tolist() == [0, 2, 7, 8]
    assert found.images.dtype == np.float32 and found.declared_records == 5


def test_codes_are_added_behind_the_clients_own(tmp_path: Path):
    plant_codes(tmp_path / "run", np.full((1, 3), 2.0), np.array([4]))
    codes, labels = add_codes(tmp_path / "run", np.zeros((2, 3), np.float32), np.array([0, 1]))
    assert codes[2].tolist() == [2, 2, 2] and labels.tolist() == [0, 1, 4] and codes.dtype == np.float32


def test_both_may_be_planted_but_nothing_once_the_run_has_begun(tmp_path: Path):
    folder = tmp_path / "run-1"
    plant_codes(folder, np.zeros((2, 3)), np.zeros(2, dtype=int))
    plant_records(folder, np.zeros((1, 1, 2, 2)), np.zeros(1, dtype=int))
    (folder / "codes.npz").write_bytes(b"")
    with pytest.raises(LedgerError, match="run run-1: has begun"):
        plant_codes(folder, np.zeros((2, 3)), np.zeros(2, dtype=int))
    with pytest.raises(LedgerError, match="run run-1: has begun"):
        plant_records(folder, np.zeros((1, 1, 2, 2)), np.zeros(1, dtype=int))
