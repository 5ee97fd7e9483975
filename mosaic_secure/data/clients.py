"""Which records are whose: the partition of public data, and each client's own part."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from mosaic_secure.config import PartitionConfig, RunConfig
from mosaic_secure.data import folder as folders
from mosaic_secure.data.datasets import (
    data_info,
    held_out,
    limited,
    load_test,
    read_files,
    read_train,
    require_every_class,
)
from mosaic_secure.data.partition import deal, require_minimum
from mosaic_secure.data.records import ClientData, ClientDataError, DataInfo, RawRecords
from mosaic_secure.errors import UserError


def load_partition(config: RunConfig, root: str | Path | None = None) -> list[np.ndarray]:
    """Positions in the training part by client, for public data.

    Returns:
        One sorted int64 array a client, as ``load_dataset(config.data).labels`` counts positions.

    Raises:
        UserError: private data (who has what is known to clients only), too few records, or an empty class.
    """
    return _public_partition(config, root)[1]


def label_counts(config: RunConfig, root: str | Path | None = None) -> np.ndarray:
    """Records of each class at each client, int64 [clients, classes], for public data."""
    labels, parts = _public_partition(config, root)
    classes = data_info(config.data, root).num_classes
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts])


def declared_records(config: RunConfig, root: str | Path | None = None) -> tuple[int, ...]:
    """Record counts of the plan, one a client: declared ones, or for public data those of the partition."""
    declared = config.data.declared_records
    if isinstance(declared, dict):
        return tuple(declared[name] for name in config.client_ids)
    if declared is not None:
        return (declared,) * config.clients.count
    return tuple(len(part) for part in load_partition(config, root))


def load_client(
    config: RunConfig, client_index: int, root: str | Path | None = None, *, require_enough: bool = True
) -> ClientData:
    """Load the records of one client. Called where these records may be seen: on that client.

    Args:
        config: the run.
        client_index: 0 to ``clients.count - 1``.
        root: folder of the data; before ``data.root`` and ``MOSAIC_DATA``.
        require_enough: refuse fewer than ``partition.min_records``, and in a client's own folder
            sub-folders of no class of the run. Not to be asked of private records while others listen:
            ``min_records`` and ``class_names`` come from the server, and a refusal answers how many records
            there are, or which classes.

    Raises:
        ClientDataError: private records cannot be used; the message stays here, its code may travel.
        UserError: public records cannot be used, or there is no such client.
    """
    if not 0 <= client_index < config.clients.count:
        raise UserError(f"client {client_index}: there are {config.clients.count} clients, counted from 0")
    if config.is_public:
        return _load_client(config, client_index, root, require_enough)
    try:
        return _load_client(config, client_index, root, require_enough)
    except UserError as error:
        raise ClientDataError(str(error)) from None


def load_public_test(
    config: RunConfig, root: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """The public test part as float32 images [N, C, H, W] in [0, 1] and int64 labels [N], or None.

    None means that a run reports no metrics: there is no test part, or it is private.
    """
    return load_test(config.data, root)


def _load_client(config: RunConfig, index: int, root: str | Path | None, require_enough: bool) -> ClientData:
    info = data_info(config.data, root)
    records, part = _client_part(config, info, index, root, strict=require_enough)
    name = config.client_ids[index]
    if require_enough:
        require_minimum(part, name, config.partition.min_records)
    images, labels = records.take(part)
    declared = config.data.declared_records
    if isinstance(declared, dict):
        declared = declared[name]
    # Public data only: the checks of the configuration demand a declared number for private data.
    return ClientData(images, labels, len(part) if declared is None else declared, info.num_classes)


def _client_part(
    config: RunConfig, info: DataInfo, index: int, root: str | Path | None, strict: bool
) -> tuple[RawRecords, np.ndarray]:
    data = config.data
    if data.dataset != "folder":
        train = read_train(data, root)
        return train, deal(train.labels, config.partition, config.client_ids, config.partition_seed)[index]
    if data.clients_from == "own":
        own = folders.list_labelled(folders.folder_path(data, root), info.class_names, others=not strict)
        every = np.arange(len(own.files))
        return read_files(data, own, every), every
    alone = not config.is_public and data.clients_from == "subfolder"
    listed = _list_training_files(config, info, root, index if alone else None)
    chosen = _positions_by_client(config, listed)[index]
    return read_files(data, listed, chosen), np.arange(len(chosen))


def _list_training_files(
    config: RunConfig, info: DataInfo, root: str | Path | None, only_client: int | None = None
) -> folders.FolderRecords:
    """Files of the training part of a folder, after the hold-out and the limit."""
    data = config.data
    path = folders.folder_path(data, root)
    listed = folders.list_records(data, path, info.class_names, config.clients.count, only_client)
    chosen = np.flatnonzero(~held_out(data, listed.labels))
    chosen = chosen[limited(len(chosen), data.limit)]
    owners = None if listed.owners is None else listed.owners[chosen]
    return folders.FolderRecords(tuple(listed.files[item] for item in chosen), listed.labels[chosen], owners)


def _positions_by_client(config: RunConfig, listed: folders.FolderRecords) -> list[np.ndarray]:
    if listed.owners is None:
        return deal(listed.labels, config.partition, config.client_ids, config.partition_seed)
    return [np.flatnonzero(listed.owners == number) for number in range(config.clients.count)]


def _public_partition(config: RunConfig, root: str | Path | None) -> tuple[np.ndarray, list[np.ndarray]]:
    if not config.is_public or config.data.clients_from == "own":
        raise UserError("the partition of private data, or of the clients' own, is known to its clients only")
    info = data_info(config.data, root)
    if config.data.dataset == "folder":
        listed = _list_training_files(config, info, root)
        labels, parts = listed.labels, _positions_by_client(config, listed)
    else:
        labels = read_train(config.data, root).labels
        asked = config.partition, tuple(config.client_ids), config.partition_seed
        if config.partition.kind == "given":  # by a file, which may change
            parts = deal(labels, *asked)
        else:
            parts = [part.copy() for part in _dealt(labels.tobytes(), *asked)]
    for name, part in zip(config.client_ids, parts, strict=True):
        require_minimum(part, name, config.partition.min_records)
    require_every_class(labels[np.concatenate(parts)], info.class_names)
    return labels, parts


@lru_cache(maxsize=8)  # a process deals the same records for every stage, and a sweep for every budget
def _dealt(
    labels: bytes, partition: PartitionConfig, client_ids: tuple[str, ...], seed: int
) -> tuple[np.ndarray, ...]:
    return tuple(deal(np.frombuffer(labels, dtype=np.int64), partition, client_ids, seed))
