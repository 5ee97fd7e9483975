"""Deal the records of one data set to clients. Every rule is a function of labels and seed alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mosaic_secure.config.federation import PartitionConfig
from mosaic_secure.errors import UserError

_DRAWS = 200


def deal(
    labels: np.ndarray, rule: PartitionConfig, client_ids: tuple[str, ...], seed: int
) -> list[np.ndarray]:
    """Split records among clients by the configured rule.

    Args:
        labels: int64 [N].
        rule: the partition section.
        client_ids: names of the clients, in order.
        seed: 0 to 2**32 - 1.

    Returns:
        One sorted int64 array of positions a client. They are disjoint and, for all kinds but ``given``,
        cover every record.

    Raises:
        UserError: too few records for the clients, or a faulty file of given positions.
    """
    clients = len(client_ids)
    if len(labels) < clients * rule.min_records:
        raise UserError(
            f"partition.min_records = {rule.min_records} for {clients} clients needs "
            f"{clients * rule.min_records} records, but there are {len(labels)}: use fewer clients "
            "or a smaller minimum"
        )
    if rule.kind == "given":
        return read_positions(rule.path or "", client_ids, len(labels))
    if rule.kind == "dirichlet":
        return dirichlet(labels, clients, rule.alpha, rule.min_records, seed)
    if rule.kind == "shards":
        return shards(labels, clients, rule.shards_per_client, seed)
    return iid(len(labels), clients, seed)


def require_minimum(part: np.ndarray, client_id: str, min_records: int) -> None:
    """Refuse a client with fewer than ``min_records`` records."""
    if len(part) < min_records:
        raise UserError(
            f"{client_id} has {len(part)} records, below partition.min_records = {min_records}: "
            "give it more, or lower the minimum"
        )


def dirichlet(
    labels: np.ndarray, clients: int, alpha: float, min_records: int, seed: int
) -> list[np.ndarray]:
    """Split each class by its own draw from Dirichlet(alpha, ..., alpha) over the clients.

    Draws that leave a client short of ``min_records`` are repeated; where that goes on failing (small alpha,
    many clients) records move from the largest client's largest class to the client that is short.
    Needs ``clients * min_records`` records at least.
    """
    state = np.random.RandomState(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    order = [state.permutation(np.flatnonzero(labels == name)) for name in classes]
    counts = _dirichlet_counts(sizes, clients, alpha, state)
    for _ in range(_DRAWS):
        if counts.sum(axis=0).min() >= min_records:
            break
        counts = _dirichlet_counts(sizes, clients, alpha, state)
    _lift_to_minimum(counts, min_records)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for positions, row in zip(order, counts, strict=True):
        for client, piece in enumerate(np.split(positions, np.cumsum(row)[:-1])):
            parts[client].append(piece)
    return [np.sort(np.concatenate(pieces)) for pieces in parts]


def _dirichlet_counts(
    sizes: np.ndarray, clients: int, alpha: float, state: np.random.RandomState
) -> np.ndarray:
    """Whole numbers [classes, clients] whose rows sum to ``sizes``."""
    rows = []
    for size in sizes:
        share = state.dirichlet(np.full(clients, alpha))
        if not np.isfinite(share).all():
            # All gamma draws of a tiny alpha can underflow to 0; the limit of the law is one client alone.
            share = np.eye(clients)[state.randint(clients)]
        edges = np.floor(np.cumsum(share) * size + 0.5).astype(np.int64)
        edges[-1] = size
        rows.append(np.diff(np.minimum(edges, size), prepend=0))
    return np.stack(rows)


def _lift_to_minimum(counts: np.ndarray, min_records: int) -> None:
    """Move records in place until every client (column) has at least ``min_records``."""
    totals = counts.sum(axis=0)
    while totals.min() < min_records:
        poor, rich = int(totals.argmin()), int(totals.argmax())
        row = int(counts[:, rich].argmax())
        moved = min(min_records - totals[poor], max(1, (totals[rich] - totals[poor]) // 2), counts[row, rich])
        counts[row, rich] -= moved
        counts[row, poor] += moved
        totals[rich] -= moved
        totals[poor] += moved


def shards(labels: np.ndarray, clients: int, shards_per_client: int, seed: int) -> list[np.ndarray]:
    """Sort records by label, cut equal shards, and give each client ``shards_per_client`` of them."""
    state = np.random.RandomState(seed)
    shuffled = state.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(by_label, clients * shards_per_client)
    dealt = state.permutation(len(pieces)).reshape(clients, shards_per_client)
    return [np.sort(np.concatenate([pieces[shard] for shard in hand])) for hand in dealt]


def iid(records: int, clients: int, seed: int) -> list[np.ndarray]:
    """Shuffle the records and cut them into parts whose sizes differ by at most 1."""
    shuffled = np.random.RandomState(seed).permutation(records)
    return [np.sort(piece) for piece in np.array_split(shuffled, clients)]


def read_positions(path: str | Path, client_ids: tuple[str, ...], records: int) -> list[np.ndarray]:
    """Read ``{"client-0": [0, 5, ...], ...}``: positions from 0 to ``records - 1``, none given twice."""
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"partition.path {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"partition.path {path}: not valid JSON") from None
    if not isinstance(content, dict) or set(content) != set(client_ids):
        raise UserError(
            f"partition.path {path}: needs a list for each of {client_ids[0]} to {client_ids[-1]}"
        )
    owner = np.full(records, -1)
    parts = []
    for number, name in enumerate(client_ids):
        given = content[name]
        is_list = isinstance(given, list)
        if not is_list or not all(type(item) is int and 0 <= item < records for item in given):
            raise UserError(f"partition.path {path}: {name} must list whole numbers from 0 to {records - 1}")
        part = np.unique(np.asarray(given, dtype=np.int64))
        if len(part) != len(given) or (owner[part] >= 0).any():
            raise UserError(f"partition.path {path}: {name} lists a record that is already given to a client")
        owner[part] = number
        parts.append(part)
    return parts
