"""Images from files and arrays into the one form that networks read: float32 [N, C, H, W] in [0, 1]."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")

ImageShape = tuple[int, int, int]


def as_batch(images: Any, image_shape: ImageShape) -> np.ndarray:
    """Bring images into the form [N, C, H, W], float32 in [0, 1].

    Args:
        images: an array or torch tensor [N, C, H, W], [N, H, W, C], [N, H, W] (one channel), or one image
            [C, H, W], [H, W, C], [H, W]; uint8 in 0..255 or floating point in [0, 1]. Or a PIL image, or a
            sequence of PIL images, which are resized and turned grey or RGB as needed.
        image_shape: (C, H, W) wanted. Arrays are never resized.

    Raises:
        UserError: shape, type or range do not fit.
    """
    if _is_picture(images):
        images = [images]
    if isinstance(images, Sequence) and len(images) > 0 and all(_is_picture(image) for image in images):
        return np.stack([picture_array(image, image_shape) for image in images])
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise UserError("images have different shapes; expected one array, or pictures") from error
    return _scaled(_shaped(array, image_shape))


def read_images(path: Path, image_shape: ImageShape) -> np.ndarray:
    """Read one file: a picture (.png, .jpg), or an array (.npy, or the ``images`` of an .npz).

    Returns:
        float32 [N, C, H, W] in [0, 1]; N is 1 for a picture.

    Raises:
        UserError: the file is missing, unreadable, or does not fit; the message names it.
    """
    suffix = path.suffix.lower()
    if suffix not in PICTURES + ARRAYS:
        raise UserError(f"{path}: expected one of {', '.join(PICTURES + ARRAYS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return as_batch(_open(path, suffix), image_shape)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def find_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files to read: those given, and all images under the folders given, in sorted order.

    Raises:
        UserError: a path is not there, or a folder holds no image.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        found = sorted(file for file in inside if file.suffix.lower() in PICTURES + ARRAYS)
        if not found:
            raise UserError(f"{path}: holds no image ({', '.join(PICTURES + ARRAYS)})")
        yield from found


def picture_array(picture: Image, image_shape: ImageShape) -> np.ndarray:
    """One PIL image as float32 [C, H, W] in [0, 1], resized (bilinear, antialiased), made grey or RGB."""
    from PIL.Image import Resampling

    channels, height, width = image_shape
    if channels not in (1, 3):
        raise UserError(f"the model reads {channels} channels; give arrays instead of pictures")
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        raise UserError(f"pictures of mode {picture.mode} have no fixed range; give arrays in [0, 1] instead")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Resampling.BILINEAR)
    return (np.asarray(picture, np.float32) / 255).reshape(height, width, channels).transpose(2, 0, 1)


def _open(path: Path, suffix: str) -> Any:
    if suffix in PICTURES:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as picture:
                picture.load()
                return picture
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError("not a readable picture") from error
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            if "images" in content.files:
                return content["images"]
            if len(content.files) == 1:
                return content[content.files[0]]
            names = ", ".join(sorted(content.files))
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError("not a readable numpy file (object arrays are refused)") from error
    raise UserError(f"holds the arrays {names}; expected one named images")


def _shaped(array: np.ndarray, image_shape: ImageShape) -> np.ndarray:
    channels, height, width = image_shape
    last = (height, width, channels)
    if array.shape in (image_shape, last) or (channels == 1 and array.shape == (height, width)):
        array = array[None]
    if array.ndim == 3 and channels == 1 and array.shape[1:] == (height, width):
        array = array[:, None]
    if array.ndim == 4 and array.shape[1:] == image_shape:
        return array
    if array.ndim == 4 and array.shape[1:] == last:
        return array.transpose(0, 3, 1, 2)
    raise UserError(
        f"images of shape {list(array.shape)}; expected [N, {channels}, {height}, {width}]"
        + (f" or [N, {height}, {width}]" if channels == 1 else f" or [N, {height}, {width}, {channels}]")
    )


def _scaled(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.float32) / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"images of type {array.dtype}; expected uint8 in 0..255 or floating point in [0, 1]")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise UserError(f"image values from {low:g} to {high:g}; expected [0, 1], or uint8 in 0..255")
    return np.ascontiguousarray(array, np.float32)


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "mode") and hasattr(value, "size")
