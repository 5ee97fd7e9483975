from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mosaic_secure.errors import UserError
from mosaic_secure.runs import synthesis


@pytest.fixture(scope="module")
def run(write_small_run, tmp_path_factory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("synth") / "run", generators=True)


def test_images_of_every_class_in_turn(run: Path):
    drawn = synthesis.draw(run, 31)
    assert drawn.images.shape == (31, 1, 8, 8) and drawn.images.dtype == np.uint8
    assert np.bincount(drawn.labels).tolist() == [11, 10, 10]
    assert drawn.class_names == ("cat", "dog", "owl")
    assert len(np.unique(drawn.images.reshape(31, -1), axis=0)) == 31


def test_the_seed_decides(run: Path):
    first, again, other = (synthesis.draw(run, 12, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images) and np.array_equal(first.sources, again.sources)
    assert not np.array_equal(first.images, other.images)


def test_generators_draw_the_classes_that_they_weigh_in(run: Path):
    drawn = synthesis.draw(run, 3000)
    share = [float(np.mean(drawn.sources[drawn.labels == label] == 0)) for label in range(3)]
    assert share[0] == 0  # client-0 has no weight for class 0
    # weights 1 to 2, and equal for class 2, which nobody claims: 5 standard deviations of 1000 draws
    assert abs(share[1] - 1 / 3) < 0.075 and abs(share[2] - 1 / 2) < 0.08


def test_written_files(run: Path, tmp_path: Path):
    drawn = synthesis.draw(run, 20)
    written = synthesis.write(drawn, tmp_path / "out")
    with np.load(written["npz"], allow_pickle=False) as content:
        assert np.array_equal(content["images"], drawn.images)
        assert np.array_equal(content["labels"], drawn.labels)
        assert content["class_names"].tolist() == ["cat", "dog", "owl"]
    with Image.open(written["png"]) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["grid.png", "synthetic.npz"]
    with pytest.raises(UserError, match="not empty"):
        synthesis.write(drawn, tmp_path / "out")


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_each_image_in_its_place(channels: int):
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) * 40 * np.ones((1, channels, 60, 60), np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    drawn = synthesis.SyntheticImages(images, labels, labels, ("a", "b"), ("x", "y"))
    sheet = np.asarray(Image.open(io.BytesIO(synthesis.png_grid(drawn))))
    places = {index: (61 * (index % 2) + 30, 61 * (index // 2) + 30) for index in range(6)}
    assert all((sheet[place] == 40 * index).all() for index, place in places.items())


def test_bad_requests(run: Path, small_run: Path, tmp_path: Path):
    for count in (0, -1, 10**9):
        with pytest.raises(UserError, match="count"):
            synthesis.draw(run, count)
    with pytest.raises(UserError, match="seed"):
        synthesis.draw(run, 1, seed=-1)
    with pytest.raises(UserError, match="has no generators"):
        synthesis.draw(small_run, 5)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file"):
        synthesis.write(synthesis.draw(run, 1), tmp_path / "file")
