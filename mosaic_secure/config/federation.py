"""Sections that say whose records take part: data, clients and partition."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mosaic_secure.config.base import Count, Names, Section

BENCHMARK_POPULATIONS = {
    "digits": "digits",
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "cifar10_subset": "cifar10",
    "pneumonia": "pneumonia",
}
"""The named public benchmarks, and the population that each belongs to: overlapping data share one."""

DatasetName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar10_subset", "pneumonia", "folder"]


class DataConfig(Section):
    """Which records, where they lie, and who may see statistics of them.

    ``visibility`` is public for the named benchmarks and private for the user's own images unless it is set.
    For private data everything that shapes a message is declared here and never read off the records:
    ``class_names``, ``declared_records``, ``image_size``, ``channels`` and ``population`` (the name under
    which ledgers add up what was spent; the same for every overlapping version of the data).

    ``clients_from = "own"`` is for clients on machines of their own: each brings a folder of its images, one
    sub-folder a class, whose place is said there and never here.
    """

    dataset: DatasetName = "digits"
    visibility: Literal["public", "private"] | None = None
    population: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    root: str | None = None
    download: bool = True
    path: str | None = None
    clients_from: Literal["partition", "subfolder", "csv", "own"] = "partition"
    csv: str | None = None
    csv_column: str = "client"
    csv_file_column: str = "file"
    class_names: Names | None = None
    image_size: Annotated[int, Field(ge=4, le=512)] | None = None
    channels: Literal[1, 3] | None = None
    declared_records: Count | dict[str, Count] | None = None
    limit: Count | None = None
    test_path: str | None = None
    test_visibility: Literal["public", "private"] | None = None
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def is_public(self) -> bool:
        """Whether statistics and pictures of these records may be shown to anybody."""
        if self.visibility is None:
            return self.dataset in BENCHMARK_POPULATIONS
        return self.visibility == "public"

    @property
    def population_id(self) -> str:
        """The name under which ledgers count spending on this data."""
        return self.population or BENCHMARK_POPULATIONS.get(self.dataset, self.dataset)


class ClientsConfig(Section):
    """How many clients there are and which classifier each trains.

    ``architectures`` is given to the clients in order and starts again when it is shorter than ``count``.
    One client there is in method "central" only.
    """

    count: Annotated[int, Field(ge=1, le=1000)] = 5
    architectures: Annotated[Names, Field(min_length=1)] = ("cnn", "mlp", "cnn", "scatter_head", "mlp")


class PartitionConfig(Section):
    """How the records of one data set are dealt to clients.

    ``dirichlet``: each class is split by a draw from Dirichlet(alpha). ``shards``: records sorted by label,
    cut into equal shards, ``shards_per_client`` each. ``iid``: shuffled and cut evenly. ``given``: by the
    folder, the CSV table, or the JSON file ``path`` (``{"client-0": [0, 5], ...}``: training positions).
    ``seed`` is the seed of the run unless it is set.
    """

    kind: Literal["dirichlet", "shards", "given", "iid"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    min_records: Count = 10
    shards_per_client: Count = 2
    path: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
