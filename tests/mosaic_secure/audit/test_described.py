"""Attacks on a sealed run: about its own records, and a model that learnt them by heart is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mosaic_secure.audit import described
from mosaic_secure.audit.described import describe_model, describe_synthetic
from mosaic_secure.audit.records import public_records, run_config
from mosaic_secure.errors import UserError
from mosaic_secure.runs.directory import RunDirectory

from ..conftest import Finished
from ..tiny import CLIENTS


def test_members_are_the_clients_records_and_the_others_are_nobodys(finished: Finished):
    run = RunDirectory.open(finished.path)
    records = public_records(run)
    assert records.members.sum() == 240 and set(records.clients[records.members]) == set(CLIENTS)
    assert set(records.clients[~records.members]) == {""}
    everything = np.concatenate(
        [records.images.reshape(len(records.images), -1), records.population.reshape(-1, 64)]
    )
    assert len(np.unique(everything, axis=0)) >= len(everything) - 3  # digits has a few twins
    few = public_records(run, most=50, seed=3)
    assert few.members.sum() == 50 and (~few.members).sum() == 50
    assert not np.array_equal(few.images, public_records(run, most=50, seed=4).images)


def test_other_data_than_the_runs_are_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = RunDirectory.open(finished.path)
    real = run.read_bytes

    def damaged(name: str) -> bytes:
        if name != "membership.npz":
            return real(name)
        import io

        buffer = io.BytesIO()
        np.savez(buffer, **{client: np.arange(3) for client in CLIENTS})
        return buffer.getvalue()

    monkeypatch.setattr(run, "read_bytes", damaged)
    with pytest.raises(UserError, match="is not what the run was trained on"):
        public_records(run)


def test_a_run_that_says_nothing_of_membership_is_refused(finished: Finished, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(finished.path, copy)
    (copy / "membership.npz").unlink()
    with pytest.raises(UserError, match=r"has no membership\.npz"):
        public_records(RunDirectory.open(copy))
    with RunDirectory.create(tmp_path / "open") as begun, pytest.raises(UserError, match="not sealed"):
        run_config(begun)


def test_a_private_run_is_described_within_its_ceiling(finished: Finished):
    run = RunDirectory.open(finished.path)
    records = public_records(run)
    found = describe_model(run, records, 4.0, 1e-4)
    assert found.members == 240 and found.resolvable_fpr in (0.01, 0.1)
    assert found.area < 0.65
    assert found.worst["client"].name in CLIENTS and found.worst["class"].name in "0123456789"
    synthetic = describe_synthetic(run, run_config(run), records, 4.0, 1e-4)
    features = "density ratio in features"
    assert set(synthetic) == {"density ratio", features, "nearness", "nearest-neighbour ratio"}
    assert all(summary.area < 0.65 for summary in synthetic.values())


def test_a_model_that_knows_its_records_by_heart_is_found(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    """A stand-in for the global model that is sure of members and of nothing else."""
    run = RunDirectory.open(finished.path)
    records = public_records(run)
    known = {image.tobytes(): label for image, label in zip(records.images, records.labels, strict=True)}
    members = {image.tobytes() for image in records.images[records.members]}

    def sure(rows: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(rows), 10)
        for row, image in zip(out, rows.numpy(), strict=True):
            if image.tobytes() in members:
                row[known[image.tobytes()]] = 9.0
        return out

    real = described.load

    def stand_in(run: RunDirectory):
        predictor = real(run)
        predictor.module = sure
        return predictor

    monkeypatch.setattr(described, "load", stand_in)
    found = describe_model(run, records, 4.0, 1e-4)
    assert found.area > 0.98
    assert found.caught[2].rate.interval.low > found.caught[2].at_most or found.caught[2].at_most == 1.0


def test_a_run_without_synthetic_records_has_nothing_to_describe(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    run = RunDirectory.open(finished.path)
    records = public_records(run, most=50)
    monkeypatch.setattr(run, "has", lambda _: False)
    assert describe_synthetic(run, run_config(run), records, 4.0, 1e-4) == {}
