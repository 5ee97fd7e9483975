"""What the parts of the federation get to see of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mosaic_secure.errors import UserError


class ClientDataError(UserError):
    """A client cannot use its own records.

    The message may tell of private records: it is for the client's own display. ``code`` is all that may
    travel; it is one constant, so that it tells nothing of the records.
    """

    code = "refused"


@dataclass(frozen=True)
class DataInfo:
    """What is known of the data without reading a record.

    ``image_shape`` is (channels, height, width); ``visibility`` is ``public`` or ``private``.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    visibility: str

    @property
    def num_classes(self) -> int:
        """Number of class slots, whether or not any client fills them."""
        return len(self.class_names)


@dataclass(frozen=True, repr=False)
class RawRecords:
    """Records as they are stored: images uint8 [N, C, H, W] from 0 to ``scale``, labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray
    scale: int = 255

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 [len(indices), C, H, W] in [0, 1], and labels int64 [len(indices)]."""
        return self.images[indices].astype(np.float32) / np.float32(self.scale), self.labels[indices]

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Every record, as ``take`` gives it."""
        return self.take(np.arange(len(self.labels)))


@dataclass(frozen=True, repr=False)
class Dataset:
    """A data set: images float32 [N, C, H, W] in [0, 1], labels int64 [N], and a public test part."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    class_names: tuple[str, ...]
    visibility: str

    @property
    def num_classes(self) -> int:
        """Number of class slots."""
        return len(self.class_names)


@dataclass(frozen=True, repr=False)
class ClientData:
    """The records of one client, for that client only.

    ``images`` float32 [N, C, H, W] in [0, 1]; ``labels`` int64 [N] in 0..num_classes-1. Rates of DP-SGD come
    from ``declared_records``, a constant of the plan, and never from the length of ``images``.
    """

    images: np.ndarray
    labels: np.ndarray
    declared_records: int
    num_classes: int
