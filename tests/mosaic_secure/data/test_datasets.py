from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mosaic_secure.config import load_config
from mosaic_secure.data import check_available, data_info, load_client, load_dataset, load_public_test
from mosaic_secure.data.benchmarks import holdout
from mosaic_secure.errors import UserError

REAL = os.environ.get("MOSAIC_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="MOSAIC_DATA names no folder of data sets")


@pytest.fixture
def no_root(monkeypatch, tmp_path):
    monkeypatch.delenv("MOSAIC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def data_of(name: str, **fields):
    return load_config(name, {f"data.{key}": value for key, value in fields.items()}).data


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(root: Path, zipped: bool = True, folder: str = "MNIST") -> np.ndarray:
    images = np.random.RandomState(0).randint(0, 256, (50, 28, 28))
    labels = np.arange(50) % 10
    for part in ("train", "t10k"):
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images, zipped)
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", labels, zipped)
    return images


def test_digits_have_a_fixed_split_with_every_class_in_both_parts(no_root):
    digits = load_dataset(data_of("digits"))
    assert digits.images.shape == (1437, 1, 8, 8) and digits.images.dtype == np.float32
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.images.min() == 0 and digits.images.max() == 1
    assert digits.labels.dtype == np.int64
    assert digits.visibility == "public"
    assert set(np.bincount(digits.test_labels)) <= {35, 36, 37}
    again = load_dataset(data_of("digits"))
    assert np.array_equal(digits.images, again.images)


def test_digits_are_those_of_scikit_learn(no_root):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = load_dataset(data_of("digits"))
    mine = np.concatenate([digits.images, digits.test_images]).reshape(1797, 64) * 16
    mine = np.column_stack([mine, np.concatenate([digits.labels, digits.test_labels])])
    theirs = np.column_stack(datasets.load_digits(return_X_y=True))
    assert np.array_equal(mine[np.lexsort(mine.T)], theirs[np.lexsort(theirs.T)])


def test_reading_data_needs_no_heavy_library():
    code = (
        "import sys; from mosaic_secure.config import load_config;"
        "from mosaic_secure.data import load_client;"
        "load_client(load_config('digits'), 0);"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'matplotlib', 'flwr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read_packed_or_not_and_nothing_is_written(no_root, tmp_path, zipped, name, folder):
    images = write_mnist(tmp_path, zipped, folder)
    before = sorted(tmp_path.rglob("*"))
    loaded = load_dataset(data_of(name), tmp_path)
    assert np.array_equal(np.rint(loaded.images[:, 0] * 255), images)
    assert len(loaded.test_labels) == 50
    assert sorted(tmp_path.rglob("*")) == before


def test_the_root_is_taken_from_the_call_then_the_configuration_then_the_environment(
    no_root, monkeypatch, tmp_path
):
    write_mnist(tmp_path)
    check_available(data_of("mnist"), tmp_path)
    check_available(data_of("mnist", root=str(tmp_path)))
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path))
    check_available(data_of("mnist"))
    with pytest.raises(UserError, match="--data-root .*no such folder"):
        check_available(data_of("mnist"), tmp_path / "absent")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar10_subset", "pneumonia"])
def test_a_missing_root_is_one_clear_line(no_root, name, tmp_path):
    with pytest.raises(UserError, match="--data-root or MOSAIC_DATA") as caught:
        check_available(data_of(name, download=False))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not hold"):
        check_available(data_of(name), tmp_path)


def test_a_failed_download_is_one_clear_line(no_root, monkeypatch):
    from mosaic_secure.data import benchmarks

    def fail(name, folder):
        raise RuntimeError("no network\nat all")

    monkeypatch.setattr(benchmarks, "download_idx", fail)
    with pytest.raises(UserError, match=r"download failed \(no network\); give --data-root") as caught:
        check_available(data_of("mnist"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "magic", "gzip"])
def test_damaged_idx_files_are_named(no_root, tmp_path, damage):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    if damage == "gzip":
        path.write_bytes(content[: len(content) // 2])
    else:
        plain = gzip.decompress(content)
        path.write_bytes(gzip.compress(plain[:-1] if damage == "cut" else b"\0\0\x0d" + plain[3:]))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz: damaged"):
        load_dataset(data_of("mnist"), tmp_path)


def write_npz(path: Path, **changes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = np.random.RandomState(1)
    content = {}
    for part in ("train", "test"):
        content[f"{part}_images"] = state.randint(0, 256, (40, 28, 28)).astype(np.uint8)
        content[f"{part}_labels"] = (np.arange(40) % 2).reshape(-1, 1).astype(np.uint8)
    np.savez(path, **{**content, **changes})


def test_npz_layouts_are_read_and_checked(no_root, tmp_path):
    path = tmp_path / "medmnist" / "pneumoniamnist.npz"
    write_npz(path)
    loaded = load_dataset(data_of("pneumonia"), tmp_path)
    assert loaded.images.shape == (40, 1, 28, 28) and loaded.num_classes == 2
    write_npz(path, train_images=np.zeros((40, 8, 8), np.uint8))
    with pytest.raises(UserError, match="not data set pneumonia"):
        load_dataset(data_of("pneumonia"), tmp_path)
    write_npz(path, train_labels=np.full(40, 2, np.uint8))
    with pytest.raises(UserError, match="labels 0 to 1"):
        load_dataset(data_of("pneumonia"), tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="damaged"):
        load_dataset(data_of("pneumonia"), tmp_path)


def test_pickled_arrays_are_not_loaded(no_root, tmp_path):
    path = tmp_path / "medmnist" / "pneumoniamnist.npz"
    write_npz(path, train_images=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        load_dataset(data_of("pneumonia"), tmp_path)


def test_a_class_that_nobody_has_is_refused(no_root, tmp_path):
    write_npz(tmp_path / "medmnist" / "pneumoniamnist.npz", train_labels=np.zeros(40, np.uint8))
    with pytest.raises(UserError, match="class 'pneumonia' has no training record"):
        load_dataset(data_of("pneumonia"), tmp_path)


def test_a_limit_keeps_the_same_records_every_time(no_root):
    small = load_dataset(data_of("digits", limit=200))
    assert len(small.labels) == 200 and len(small.test_labels) == 360
    assert np.array_equal(small.images, load_dataset(data_of("digits", limit=200)).images)


def test_private_benchmarks_have_no_test_part(no_root):
    hidden = {"visibility": "private", "declared_records": 100, "population": "mine"}
    config = load_config("digits", {f"data.{key}": value for key, value in hidden.items()})
    assert load_public_test(config) is None
    assert load_dataset(config.data).test_images is None
    assert load_public_test(load_config("digits")) is not None


def test_info_needs_no_record(no_root):
    info = data_info(data_of("cifar10"))
    assert info.image_shape == (3, 32, 32) and info.num_classes == 10


def test_holdout_takes_the_same_part_of_each_class():
    labels = np.repeat([0, 1, 2], [10, 20, 70])
    marked = holdout(labels, 20, seed=0)
    assert np.bincount(labels[marked]).tolist() == [2, 4, 14]


@needs_real_data
@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [
        ("mnist", 60_000, 10_000, (1, 28, 28)),
        ("fashion_mnist", 60_000, 10_000, (1, 28, 28)),
        ("cifar10_subset", 15_000, 3_000, (3, 32, 32)),
        ("pneumonia", 4_708, 624, (1, 28, 28)),
    ],
)
def test_real_data_have_their_known_sizes(name, train, test, shape):
    config = load_config(name)
    try:
        check_available(config.data)
    except UserError as error:
        pytest.skip(str(error))
    client = load_client(config, 0)
    assert client.images.shape[1:] == shape == data_info(config.data).image_shape
    images, labels = load_public_test(config)
    assert len(images) == len(labels) == test
    from mosaic_secure.data import declared_records

    assert sum(declared_records(config)) == train
