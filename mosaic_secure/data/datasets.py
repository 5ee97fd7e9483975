"""Load a data set by its configuration, whole or the parts that a role may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaic_secure.config.federation import DataConfig
from mosaic_secure.data import folder as folders
from mosaic_secure.data.benchmarks import BENCHMARKS, holdout, locate, read_benchmark
from mosaic_secure.data.records import DataInfo, Dataset, RawRecords
from mosaic_secure.errors import UserError

_LIMIT_SEED = 7
_HOLDOUT_SEED = 11


def data_info(data: DataConfig, root: str | Path | None = None) -> DataInfo:
    """Shape and classes of a data set, without reading a record.

    For private data all of it is declared. Only for public folders without ``class_names`` are the names of
    the class folders looked up.
    """
    visibility = "public" if data.is_public else "private"
    if data.dataset != "folder":
        shape, names = BENCHMARKS[data.dataset]
        return DataInfo(data.dataset, shape, names, visibility)
    names = data.class_names or folders.class_folders(data, folders.folder_path(data, root))
    return DataInfo("folder", image_shape(data), tuple(names), visibility)


def image_shape(data: DataConfig) -> tuple[int, int, int]:
    """(channels, height, width) of the images of a folder."""
    size = data.image_size or folders.DEFAULT_IMAGE_SIZE
    return data.channels or folders.DEFAULT_CHANNELS, size, size


def check_available(data: DataConfig, root: str | Path | None = None) -> None:
    """Find out that the data are there (fetching public ones if allowed), without reading a record.

    Raises:
        UserError: a missing root, folder or file; the line says what is needed.
    """
    if data.dataset == "folder":
        if data.clients_from != "own":
            folders.folder_path(data, root)
        if data.test_path is not None:
            folders.test_folder_path(data, root)
    else:
        locate(data.dataset, data.root, root, data.download)


def load_dataset(data: DataConfig, root: str | Path | None = None) -> Dataset:
    """Load all records of a data set, where they are.

    Args:
        data: the data section.
        root: folder of the data; before ``data.root`` and ``MOSAIC_DATA``.

    Returns:
        All training records, and the test part if it is public.

    Raises:
        UserError: missing or damaged data, or a class without a record in public data.
    """
    info = data_info(data, root)
    if data.dataset == "folder":
        path = folders.folder_path(data, root)
        listed = folders.list_records(data, path, info.class_names)
        chosen = np.flatnonzero(~held_out(data, listed.labels))
        chosen = chosen[limited(len(chosen), data.limit)]
        train = read_files(data, listed, chosen)
    else:
        train = read_train(data, root)
    if data.is_public:
        require_every_class(train.labels, info.class_names)
    images, labels = train.all()
    test = load_test(data, root)
    test_images, test_labels = test if test is not None else (None, None)
    return Dataset(info.name, images, labels, test_images, test_labels, info.class_names, info.visibility)


def read_train(data: DataConfig, root: str | Path | None = None) -> RawRecords:
    """The training records of a named data set, cut to ``limit``."""
    train = read_benchmark(data.dataset, locate(data.dataset, data.root, root, data.download), train=True)
    chosen = limited(len(train.labels), data.limit)
    return RawRecords(train.images[chosen], train.labels[chosen], train.scale)


def load_test(data: DataConfig, root: str | Path | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """The public test part: images float32 [N, C, H, W] in [0, 1] and labels int64 [N], or None.

    A private test set is never read here: no metric of it may reach a run.
    """
    if data.dataset != "folder":
        if not data.is_public:
            return None
        folder = locate(data.dataset, data.root, root, data.download)
        return read_benchmark(data.dataset, folder, train=False).all()
    is_public = data.is_public if data.test_visibility is None else data.test_visibility == "public"
    if not is_public:
        return None
    info = data_info(data, root)
    if data.test_path is not None:
        listed = folders.list_labelled(folders.test_folder_path(data, root), info.class_names)
        if not listed.files:
            raise UserError(f"data.test_path {data.test_path}: no images in it")
        return read_files(data, listed, np.arange(len(listed.files))).all()
    if data.test_fraction > 0 and data.is_public:
        path = folders.folder_path(data, root)
        listed = folders.list_records(data, path, info.class_names)
        return read_files(data, listed, np.flatnonzero(held_out(data, listed.labels))).all()
    return None


def read_files(data: DataConfig, listed: folders.FolderRecords, chosen: np.ndarray) -> RawRecords:
    """Decode the chosen files of a folder."""
    channels, size, _ = image_shape(data)
    images = folders.decode([listed.files[index] for index in chosen], size, channels)
    return RawRecords(images, listed.labels[chosen])


def held_out(data: DataConfig, labels: np.ndarray) -> np.ndarray:
    """bool [N]: records of a public folder that are kept for the test, always the same ones."""
    count = round(data.test_fraction * len(labels))
    return holdout(labels, count, _HOLDOUT_SEED) if count else np.zeros(len(labels), dtype=bool)


def limited(records: int, limit: int | None) -> np.ndarray:
    """Sorted positions of at most ``limit`` of ``records``, always the same ones."""
    if limit is None or limit >= records:
        return np.arange(records)
    return np.sort(np.random.RandomState(_LIMIT_SEED).permutation(records)[:limit])


def require_every_class(labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Refuse public data in which a class has no record."""
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"class {empty[0]!r} has no training record at any client: add some, or drop the class"
        )
