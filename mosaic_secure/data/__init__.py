"""Data sets by name, the user's own folders, and who has which records."""

from __future__ import annotations

from mosaic_secure.data.clients import (
    declared_records,
    label_counts,
    load_client,
    load_partition,
    load_public_test,
)
from mosaic_secure.data.datasets import check_available, data_info, load_dataset
from mosaic_secure.data.records import ClientData, ClientDataError, DataInfo, Dataset

__all__ = [
    "ClientData",
    "ClientDataError",
    "DataInfo",
    "Dataset",
    "check_available",
    "data_info",
    "declared_records",
    "label_counts",
    "load_client",
    "load_dataset",
    "load_partition",
    "load_public_test",
]
