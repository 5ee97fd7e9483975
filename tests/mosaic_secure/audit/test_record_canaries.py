"""Canaries that are whole records: how they are dealt, and that scores tell those a model has learnt."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mosaic_secure.audit.record_canaries import (
    RecordCanaries,
    classifier_scores,
    model_scores,
    synthetic_scores,
)


def drawn(count: int = 40) -> RecordCanaries:
    rng = np.random.default_rng(0)
    images = rng.random((60, 1, 2, 2), dtype=np.float32)
    return RecordCanaries.draw(images, rng.integers(0, 5, 60), 5, 3, count, rng)


class Remembers(nn.Module):
    """Says the label of every picture that it has learnt by heart, and nothing of others."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self._known = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(images), 5)
        for row, image in enumerate(images):
            if (label := self._known.get(image.numpy().tobytes())) is not None:
                out[row, label] = 5.0
        return out


def test_each_is_another_record_under_a_wrong_label():
    rng = np.random.default_rng(1)
    images = np.arange(60, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32)
    labels = rng.integers(0, 5, 60)
    found = RecordCanaries.draw(images, labels, 5, 3, 500, rng)
    places = found.images[:, 0, 0, 0].astype(int)
    assert sorted(places) == list(range(60)) and (found.labels != labels[places]).all()
    assert np.bincount(found.owners).tolist() == [20, 20, 20]
    dealt = [len(found.of(client)[1]) for client in range(3)]
    assert sum(dealt) == found.included.sum() == len(found.present[1]) and 0 < sum(dealt) < 60


def test_a_model_that_learnt_them_is_told_from_one_that_did_not():
    canaries = drawn()
    scores = model_scores(Remembers(*canaries.present), canaries)
    assert scores[canaries.included].min() > scores[~canaries.included].max()


def test_a_classifier_is_held_against_those_of_other_clients():
    """Pictures that every client's model knows, such as easy ones, do not count as members."""
    canaries = drawn()
    everybody = (canaries.images[:10], canaries.labels[:10])
    classifiers = {
        client: Remembers(
            *(np.concatenate(pair) for pair in zip(canaries.of(client), everybody, strict=True))
        )
        for client in range(3)
    }
    scores = classifier_scores(classifiers, canaries)
    rest = np.arange(len(scores)) >= 10
    assert scores[rest & canaries.included].min() > 0
    assert np.allclose(scores[~rest], 0) and np.allclose(scores[rest & ~canaries.included], 0)


def test_hundreds_of_clients_are_not_too_many():
    rng = np.random.default_rng(0)
    images = rng.random((200, 1, 2, 2), dtype=np.float32)
    canaries = RecordCanaries.draw(images, rng.integers(0, 5, 200), 5, 100, 200, rng)
    scores = classifier_scores({c: Remembers(*canaries.of(c)) for c in range(100)}, canaries)
    assert scores[canaries.included].min() > scores[~canaries.included].max()


def test_synthetic_records_that_copy_them_are_told():
    canaries = drawn()
    images, labels = canaries.present
    noise = np.random.default_rng(3).integers(0, 256, (100, 1, 2, 2), dtype=np.uint8)
    made = np.concatenate([np.round(images * 255).astype(np.uint8), noise])
    marks = np.concatenate([labels, np.arange(100) % 5])
    scores = synthetic_scores(made, marks, canaries)
    assert scores[canaries.included].mean() > scores[~canaries.included].mean() + 1
    assert np.isfinite(synthetic_scores(noise, np.zeros(100, dtype=int), canaries)).all()
