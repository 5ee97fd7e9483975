"""The user's own images: one folder a class, with clients by sub-folder, by a table, or by a partition."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaic_secure.config.federation import DataConfig
from mosaic_secure.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
DEFAULT_IMAGE_SIZE = 32
DEFAULT_CHANNELS = 3


@dataclass(frozen=True, repr=False)
class FolderRecords:
    """Image files in a fixed order, their labels int64 [N], and the client of each (int64 [N], or None)."""

    files: tuple[Path, ...]
    labels: np.ndarray
    owners: np.ndarray | None


def folder_path(data: DataConfig, root: str | Path | None = None) -> Path:
    """The folder of the images; a relative path lies under the data root when one is named."""
    if data.clients_from == "own" and data.path is None:
        raise UserError(
            "data.clients_from = 'own': the records lie at the clients, each in a folder of its own"
        )
    return _under_root(data, data.path or "", root, "data.path")


def test_folder_path(data: DataConfig, root: str | Path | None = None) -> Path:
    """The folder of the test images."""
    return _under_root(data, data.test_path or "", root, "data.test_path")


def class_folders(data: DataConfig, path: Path) -> tuple[str, ...]:
    """Declared class names, or for public data without any the names of the class folders, sorted."""
    if data.class_names is not None:
        return tuple(data.class_names)
    tops = _folders(path) if data.clients_from == "subfolder" else [path]
    names = sorted({folder.name for top in tops for folder in _folders(top)})
    if len(names) < 2:
        raise UserError(f"data.path {path}: {len(names)} class folders; it needs one a class, at least 2")
    return tuple(names)


def list_records(
    data: DataConfig,
    path: Path,
    class_names: Sequence[str],
    clients: int | None = None,
    only_client: int | None = None,
) -> FolderRecords:
    """Find the image files below ``path`` without opening them.

    Args:
        data: the data section.
        path: ``path/CLASS/...`` or, with clients from sub-folders, ``path/CLIENT/CLASS/...``.
        class_names: folders of other names are refused.
        clients: number of clients that there must be; None takes as many as there are.
        only_client: with clients from sub-folders, look into this client's folder alone.

    Raises:
        UserError: an unknown class folder, a wrong number of client folders, or a faulty table.
    """
    if data.clients_from == "subfolder":
        tops = client_folders(path, clients)
        chosen = range(len(tops)) if only_client is None else [only_client]
        found = [(number, *_list_classes(tops[number], class_names)) for number in chosen]
        files = tuple(file for _, part, _ in found for file in part)
        labels = np.concatenate([part for _, _, part in found])
        owners = np.concatenate([np.full(len(part), number, dtype=np.int64) for number, _, part in found])
        return FolderRecords(files, labels, owners)
    files, labels = _list_classes(path, class_names)
    owners = _owners_from_table(data, path, files, clients) if data.clients_from == "csv" else None
    return FolderRecords(files, labels, owners)


def list_labelled(path: Path, class_names: Sequence[str], *, others: bool = False) -> FolderRecords:
    """Find the image files of ``path/CLASS/...``; ``others``: pass over folders of other names."""
    files, labels = _list_classes(path, class_names, others)
    return FolderRecords(files, labels, None)


def list_classes(path: Path) -> dict[str, tuple[Path, ...]]:
    """The image files of ``path/CLASS/...`` by class, whatever the classes are called.

    Raises:
        UserError: there is no image.
    """
    found = {folder.name: _images_below(folder) for folder in _folders(path)}
    if not any(found.values()):
        raise UserError(f"{path}: no image in it; it must hold one sub-folder a class, with images inside")
    return found


def check_images(files: Sequence[Path]) -> None:
    """Open every image; raises UserError naming the first that cannot be read."""
    for file in files:
        _decode_one(file, 8, 1)


def client_folders(path: Path, clients: int | None = None) -> list[Path]:
    """The sub-folders of the clients, sorted by name: the first is ``client-0``."""
    folders = _folders(path)
    if not folders or (clients is not None and len(folders) != clients):
        wanted = f"clients.count = {clients}: set it to fit" if clients else "it needs one folder a client"
        raise UserError(f"data.path {path}: {len(folders)} client folders, but {wanted}")
    return folders


def decode(files: Sequence[Path], size: int, channels: int) -> np.ndarray:
    """Read images, cut their centre square, and scale it to ``size`` pixels a side.

    Returns:
        uint8 [len(files), channels, size, size].

    Raises:
        UserError: a file that is no readable image, by name.
    """
    images = np.zeros((len(files), channels, size, size), dtype=np.uint8)
    for position, file in enumerate(files):
        images[position] = _decode_one(file, size, channels)
    return images


def _decode_one(file: Path, size: int, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                # 16-bit grey, which Pillow's own conversion would cut off at 255.
                wide = np.asarray(image, dtype=np.float64) / 257
                image = Image.fromarray(wide.clip(0, 255).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except Exception:
        # Pillow's decoders raise many kinds of error on damaged bytes; all mean the same to the user.
        raise UserError(f"{file}: not a readable image; mend or remove it") from None
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)


def _under_root(data: DataConfig, place: str, root: str | Path | None, field: str) -> Path:
    path = Path(place).expanduser()
    base = root if root is not None else data.root
    if base is not None and not path.is_absolute():
        path = Path(base).expanduser() / path
    if not path.is_dir():
        raise UserError(f"{field} {path}: no such folder")
    return path


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _images_below(folder: Path) -> tuple[Path, ...]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return tuple(sorted(files))


def _list_classes(
    path: Path, class_names: Sequence[str], others: bool = False
) -> tuple[tuple[Path, ...], np.ndarray]:
    slots = {name: slot for slot, name in enumerate(class_names)}
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(path):
        if folder.name not in slots:
            if others:
                continue
            raise UserError(f"{folder}: no class of this run; data.class_names has {', '.join(class_names)}")
        inside = _images_below(folder)
        files += inside
        labels += [slots[folder.name]] * len(inside)
    return tuple(files), np.asarray(labels, dtype=np.int64)


def _owners_from_table(
    data: DataConfig, path: Path, files: Sequence[Path], clients: int | None
) -> np.ndarray:
    table = Path(data.csv or "").expanduser()
    if not table.is_absolute() and not table.is_file():
        table = path / table
    rows = _read_table(table, (data.csv_file_column, data.csv_column))
    names = sorted(set(rows.values()))
    if clients is not None and len(names) != clients:
        raise UserError(
            f"data.csv {table}: column {data.csv_column} names {len(names)} clients, but clients.count = "
            f"{clients}: set it to fit"
        )
    number = {name: position for position, name in enumerate(names)}
    known = {str(file.relative_to(path)): position for position, file in enumerate(files)}
    stray = next((name for name in rows if name not in known), None)
    if stray is not None:
        raise UserError(f"data.csv {table}: {stray} is no image below {path}; write paths as CLASS/file.png")
    missing = next((name for name in known if name not in rows), None)
    if missing is not None:
        raise UserError(f"data.csv {table}: no row for {missing}; give each image a client")
    owners = np.zeros(len(files), dtype=np.int64)
    for name, position in known.items():
        owners[position] = number[rows[name]]
    return owners


def _read_table(table: Path, columns: tuple[str, str]) -> dict[str, str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            absent = [name for name in columns if name not in (reader.fieldnames or ())]
            if absent:
                needs = f"{columns[0]!r} and {columns[1]!r}"
                raise UserError(f"data.csv {table}: no column {absent[0]!r}; it needs {needs}")
            rows: dict[str, str] = {}
            for line, row in enumerate(reader, start=2):
                file, client = row[columns[0]], row[columns[1]]
                if not file or not client:
                    raise UserError(f"data.csv {table}, line {line}: the file or the client is empty")
                if file in rows:
                    raise UserError(f"data.csv {table}, line {line}: {file} is listed twice")
                rows[file] = client
            return rows
    except OSError as error:
        raise UserError(f"data.csv {table}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"data.csv {table}: not a CSV table in UTF-8") from None
