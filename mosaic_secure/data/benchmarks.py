"""The named public data sets."""

from __future__ import annotations

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from mosaic_secure.data.idx import download_idx, has_idx, idx_place, read_idx
from mosaic_secure.data.records import RawRecords
from mosaic_secure.data.roots import cache_root, given_root
from mosaic_secure.errors import UserError

_TEN = tuple(str(digit) for digit in range(10))
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_GARMENTS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

BENCHMARKS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    "digits": ((1, 8, 8), _TEN),
    "mnist": ((1, 28, 28), _TEN),
    "fashion_mnist": ((1, 28, 28), _GARMENTS),
    "cifar10": ((3, 32, 32), _CIFAR),
    "cifar10_subset": ((3, 32, 32), _CIFAR),
    "pneumonia": ((1, 28, 28), ("normal", "pneumonia")),
}
"""Image shape (channels, height, width) and class names by data set."""

_NPZ = {
    "cifar10_subset": ("cifar10/cifar10_subset.npz", "cifar10_subset.npz"),
    "pneumonia": ("medmnist/pneumoniamnist.npz", "pneumoniamnist.npz"),
}
_CIFAR_FOLDER = "cifar-10-batches-py"
_DIGITS_TEST_RECORDS = 360
_DIGITS_SPLIT_SEED = 20


def locate(name: str, configured: str | None, root: str | Path | None, download: bool) -> Path | None:
    """The folder that holds ``name``, fetching it first when no root is named and downloads are allowed.

    Returns:
        The folder, or None for data that come with an installed package.

    Raises:
        UserError: the data are not there and cannot be fetched.
    """
    if name == "digits":
        return None
    folder = given_root(configured, root)
    if folder is not None:
        if not _is_there(name, folder):
            raise UserError(f"data set {name}: {folder} does not hold {_place(name)}")
        return folder
    folder = cache_root()
    if _is_there(name, folder):
        return folder
    if name in _NPZ or not download:
        raise UserError(
            f"data set {name}: no data root; give --data-root or MOSAIC_DATA a folder with {_place(name)}"
        )
    _download(name, folder)
    return folder


def read_benchmark(name: str, folder: Path | None, train: bool) -> RawRecords:
    """Read the training or the test part of a named data set from the folder that ``locate`` found."""
    if name == "digits":
        return _digits(train)
    if folder is None:
        raise UserError(f"data set {name}: no data root")
    if name in _NPZ:
        return _npz(name, folder, train)
    records = _cifar10(folder, train) if name == "cifar10" else read_idx(name, folder, train)
    return _checked(name, records, folder)


def _is_there(name: str, folder: Path) -> bool:
    if name in _NPZ:
        return any((folder / place).is_file() for place in _NPZ[name])
    if name == "cifar10":
        return (folder / _CIFAR_FOLDER).is_dir()
    return has_idx(name, folder)


def _place(name: str) -> str:
    if name in _NPZ:
        return _NPZ[name][0]
    if name == "cifar10":
        return f"{_CIFAR_FOLDER} (or use --config cifar10_subset)"
    return idx_place(name)


def _download(name: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name == "cifar10":
            from torchvision.datasets import CIFAR10

            CIFAR10(root=str(folder), train=True, download=True)
        else:
            download_idx(name, folder)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data set {name}: the download failed ({reason}); give --data-root a folder with {_place(name)}"
        ) from None


def _digits(train: bool) -> RawRecords:
    table = _digits_table()
    labels = table[:, -1].astype(np.int64)
    images = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8)
    test = holdout(labels, _DIGITS_TEST_RECORDS, _DIGITS_SPLIT_SEED)
    chosen = ~test if train else test
    return RawRecords(images[chosen], labels[chosen], scale=16)


@lru_cache(maxsize=1)
def _digits_table() -> np.ndarray:
    """scikit-learn's digits, float [1797, 65]; read without importing scikit-learn, which is slow."""
    found = importlib.util.find_spec("sklearn")
    for place in found.submodule_search_locations or () if found else ():
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as stream:
                return np.loadtxt(stream, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def holdout(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Mark ``count`` records, the same part of every class up to rounding, at random from ``seed``.

    Returns:
        bool [N], true for the records held out.
    """
    state = np.random.RandomState(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    quota = np.floor(exact).astype(int)
    for position in np.argsort(quota - exact, kind="stable")[: count - quota.sum()]:
        quota[position] += 1
    marked = np.zeros(len(labels), dtype=bool)
    for name, size in zip(classes, quota, strict=True):
        marked[state.permutation(np.flatnonzero(labels == name))[:size]] = True
    return marked


def _npz(name: str, folder: Path, train: bool) -> RawRecords:
    path = next(folder / place for place in _NPZ[name] if (folder / place).is_file())
    part = "train" if train else "test"
    try:
        with np.load(path, allow_pickle=False) as content:
            images, labels = content[f"{part}_images"], content[f"{part}_labels"]
    except KeyError as error:
        raise UserError(f"{path}: no array {error}; see the layout that data set {name} needs") from None
    except Exception:
        # numpy and zipfile raise a dozen kinds of error on damaged bytes; all mean the same to the user.
        raise UserError(f"{path}: damaged, or not an .npz file; fetch it again") from None
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    return _checked(name, RawRecords(np.ascontiguousarray(images), labels.reshape(-1).astype(np.int64)), path)


def _cifar10(folder: Path, train: bool) -> RawRecords:
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(root=str(folder), train=train, download=False)
    except (OSError, RuntimeError):
        raise UserError(f"{folder / _CIFAR_FOLDER}: incomplete or damaged; fetch it again") from None
    images = np.ascontiguousarray(np.moveaxis(data.data, -1, 1))
    return RawRecords(images, np.asarray(data.targets, dtype=np.int64))


def _checked(name: str, records: RawRecords, source: Path) -> RawRecords:
    shape, classes = BENCHMARKS[name]
    images, labels = records.images, records.labels
    fits = images.dtype == np.uint8 and images.shape[1:] == shape and len(images) == len(labels) > 0
    if not fits or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(
            f"{source}: not data set {name}; it needs uint8 images of shape {shape} and labels "
            f"0 to {len(classes) - 1}"
        )
    return records
