from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mosaic_secure.config import load_config
from mosaic_secure.data import load_client, load_partition
from mosaic_secure.data.clients import label_counts
from mosaic_secure.errors import UserError
from mosaic_secure.report.partition_plot import draw_label_counts, partition_picture


def test_the_picture_of_a_public_partition(tmp_path):
    path = tmp_path / "partition.png"
    picture = partition_picture(load_config("digits"), path=path)
    assert path.read_bytes() == picture
    assert Image.open(io.BytesIO(picture)).size[0] > 800


def test_it_shows_what_the_clients_hold():
    config = load_config("digits")
    counts = label_counts(config)
    assert counts.sum(axis=1).tolist() == [len(part) for part in load_partition(config)]
    assert np.array_equal(counts[2], np.bincount(load_client(config, 2).labels, minlength=10))


def test_there_is_no_picture_of_private_data():
    private = {"data.visibility": "private", "data.declared_records": 100, "data.population": "mine"}
    with pytest.raises(UserError, match="private"):
        partition_picture(load_config("digits", private))


def test_many_clients_and_classes_still_fit():
    counts = np.random.RandomState(0).randint(0, 50, (40, 35))
    names = [f"class {number}" for number in range(35)]
    width, height = Image.open(
        io.BytesIO(draw_label_counts(counts, names, [f"client-{number}" for number in range(40)]))
    ).size
    assert width < 2500 and height < 6000
