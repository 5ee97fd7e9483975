"""The records that an audit judges: those of a run's clients, and some that nobody trained on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.config import RunConfig
from mosaic_secure.data import load_client, load_partition, load_public_test
from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from mosaic_secure.runs.directory import RunDirectory

__all__ = [
    "JudgedRecords",
    "check_membership",
    "pair_by_class",
    "private_records",
    "public_records",
    "run_config",
]

MEMBERSHIP = "membership.npz"


@dataclass(frozen=True)
class JudgedRecords:
    """Records whose membership is known to the auditor.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1]. labels: int64 [N].
        members: bool [N]. clients: str [N], who trained on it; "" where nobody did.
        population: float32 [R, C, H, W], further records that nobody trained on, for attacks that need to
            know what such records look like. population_labels: int64 [R].
        complete: whether members are of all clients, and not of one that audits its own part alone.
    """

    images: np.ndarray
    labels: np.ndarray
    members: np.ndarray
    clients: np.ndarray
    population: np.ndarray
    population_labels: np.ndarray
    complete: bool = True


def run_config(run: RunDirectory, data_root: str | None = None, path: str | None = None) -> RunConfig:
    """The configuration of a sealed run, with its data at `data_root`, its own images at `path`.

    Raises:
        UserError: the run is not sealed, or was written by another version.
    """
    if not run.sealed:
        raise UserError(f"{run.path}: is not sealed; finish it with train --resume --out")
    try:
        content = dict(run.manifest["config"])
        content["data"] = {**content["data"], "root": data_root or content["data"].get("root")}
        if path is not None:
            content["data"]["path"] = str(Path(path).absolute())
    except (KeyError, TypeError) as error:
        raise UserError(f"{run.path}: its manifest holds no configuration") from error
    return RunConfig.from_dict(content)


def public_records(
    run: RunDirectory, data_root: str | None = None, *, most: int = 4000, seed: int = 0
) -> JudgedRecords:
    """Training records of a run on public data, and as many records of the public test part.

    Half of the test part is judged; the other half is the population.

    Args:
        most: judged records of either kind; a random part where there are more.
        seed: of that part and of the halves.

    Raises:
        UserError: the run says nothing of membership, the data are not the run's, or they have no test part.
    """
    config = run_config(run, data_root)
    check_membership(run, config)
    test = load_public_test(config, config.data.root)
    if test is None or len(test[1]) < 4:
        raise UserError(
            f"{run.path}: its data have no test part, so there are no records that nobody trained on"
        )
    return _judged(config, *test, most, np.random.default_rng(seed))


def private_records(
    config: RunConfig, others: str, client: str | None = None, *, most: int = 4000, seed: int = 0
) -> JudgedRecords:
    """Training records of a run on private images, and records of the same kind from a folder of its own.

    To be called where the records are; what follows from them is for their clients alone.

    Args:
        config: with the clients' images at `data.path`, or those of `client` alone: ``PATH/CLASS/image``.
        others: ``OTHERS/CLASS/image``, never trained on; half are judged, half are the population.
        client: whose images they are; None for those of all clients.
        most, seed: as of `public_records`.

    Raises:
        UserError: the records cannot be read, or there are fewer than four others.
    """
    if config.data.dataset != "folder":
        raise UserError(
            f"data.dataset = {config.data.dataset!r}: an audit of private data knows those of a folder alone"
        )
    fresh, rng = _labelled(config, others, "--others"), np.random.default_rng(seed)
    if client is None:
        return _judged(config, *fresh, most, rng)
    own = _labelled(config, str(config.data.path), "--data")
    return replace(_judged(config, *fresh, most, rng, {client: own}), complete=False)


def _labelled(config: RunConfig, folder: str, option: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of ``FOLDER/CLASS/image``, at least four."""
    from mosaic_secure.data.datasets import data_info, read_files
    from mosaic_secure.data.folder import list_labelled

    if not Path(folder).is_dir():
        raise UserError(f"{option} {folder}: is not a folder; it must hold one sub-folder a class")
    listed = list_labelled(Path(folder), data_info(config.data).class_names)
    if len(listed.files) < 4:
        raise UserError(f"{option} {folder}: holds {len(listed.files)} images; there must be at least 4")
    return read_files(config.data, listed, np.arange(len(listed.files))).all()


def _judged(
    config: RunConfig,
    images: np.ndarray,
    labels: np.ndarray,
    most: int,
    rng: np.random.Generator,
    held: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> JudgedRecords:
    """What clients hold (None: all of them) beside one half of the given records, which nobody trained on."""
    order = rng.permutation(len(labels))
    judged, rest = (np.sort(part) for part in np.array_split(order, 2))
    judged = np.sort(rng.permutation(judged)[:most])
    if held is None:
        parts = [load_client(config, index, config.data.root) for index in range(config.clients.count)]
        held = {name: (part.images, part.labels) for name, part in zip(config.client_ids, parts, strict=True)}
    own_images, own_labels = (np.concatenate([part[n] for part in held.values()]) for n in (0, 1))
    owners = np.repeat(np.array(list(held)), [len(part[1]) for part in held.values()])
    chosen = np.sort(rng.permutation(len(owners))[:most])
    return JudgedRecords(
        images=np.concatenate([own_images[chosen], images[judged]]),
        labels=np.concatenate([own_labels[chosen], labels[judged]]),
        members=np.arange(len(chosen) + len(judged)) < len(chosen),
        clients=np.concatenate([owners[chosen], np.full(len(judged), "")]),
        population=images[rest],
        population_labels=labels[rest],
    )


def pair_by_class(
    labels: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `labels` and in `others`, int64 [P] each: pairs of one class, at random.

    As many as there can be. Members and others that are drawn so have equally many records of each class;
    without that, a model that knows some classes only would seem to know its members.
    """
    first, second = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for name in np.unique(labels):
        own, strange = (rng.permutation(np.flatnonzero(part == name)) for part in (labels, others))
        count = min(len(own), len(strange))
        first.append(own[:count])
        second.append(strange[:count])
    order = rng.permutation(sum(map(len, first)))
    return np.concatenate(first)[order], np.concatenate(second)[order]


def check_membership(run: RunDirectory, config: RunConfig) -> None:
    """The data at hand must be public, and their partition the one that the run wrote down.

    Raises:
        UserError: they are not.
    """
    if not config.is_public or not run.has(MEMBERSHIP):
        raise UserError(
            f"{run.path}: says nothing of who was a member (it has no {MEMBERSHIP}): its data are private, "
            "or it was no simulation; audit it where the records are"
        )
    with np.load(io.BytesIO(run.read_bytes(MEMBERSHIP)), allow_pickle=False) as stored:
        dealt = load_partition(config, config.data.root)
        same = len(stored.files) == len(dealt) and all(
            client in stored.files and np.array_equal(stored[client], part)
            for client, part in zip(config.client_ids, dealt, strict=True)
        )
    if not same:
        raise UserError(
            f"{run.path}: {config.data.dataset} at hand is not what the run was trained on (its clients "
            "would hold other records); point --data-root to the data of the run"
        )
