"""Which records are in a shadow pipeline, and how they get there.

Records of the run's clients are judged, and as many of nobody; of these a pipeline has half. All others are
always in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mosaic_secure.audit.records import pair_by_class
from mosaic_secure.client.planted import plant_records
from mosaic_secure.client.session import ClientHome
from mosaic_secure.data import load_client, load_public_test
from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.engine.parties import Federation
    from mosaic_secure.plan import RunPlan

__all__ = ["Judged", "Planter"]


@dataclass(frozen=True)
class Judged:
    """Records that are in half of the pipelines; first those of the run's clients, then as many of nobody.

    Attributes:
        images: float32 [2 M, C, S, S]. labels: int64 [2 M].
        owners: int64 [2 M], index of the client that has it, or gets it.
        places: int64 [M], position of a client's judged record among its own.
        sizes: records of each client.
    """

    images: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    places: np.ndarray
    sizes: tuple[int, ...]

    @property
    def records(self) -> int:
        """Of all clients in the run."""
        return sum(self.sizes)

    @property
    def members(self) -> np.ndarray:
        """bool [2 M], which were in the run."""
        return np.arange(len(self.labels)) < len(self.places)

    @classmethod
    def of(cls, config: RunConfig, rng: np.random.Generator, most: int) -> Judged:
        """Pairs of one class: a client's record, and a record of the public test part that goes where it is.

        Args:
            most: pairs at most.

        Raises:
            UserError: there is no test part.
        """
        root = config.data.root
        test = load_public_test(config, root)
        parts = [load_client(config, index, root) for index in range(config.clients.count)]
        sizes = tuple(len(part.labels) for part in parts)
        owners = np.repeat(np.arange(len(parts)), sizes)
        places = np.concatenate([np.arange(size) for size in sizes])
        images, labels = (np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "labels"))
        own, fresh = pair_by_class(labels, np.zeros(0, np.int64) if test is None else test[1], rng)
        own, fresh = own[:most], fresh[:most]
        if test is None or len(own) < 2:
            raise UserError("the data have no test part, so there are no records that nobody trained on")
        return cls(
            images=np.concatenate([images[own], test[0][fresh]]),
            labels=np.concatenate([labels[own], test[1][fresh]]),
            owners=np.concatenate([owners[own], owners[own]]),
            places=places[own],
            sizes=sizes,
        )

    def kept(self, client: int, half: np.ndarray) -> np.ndarray:
        """bool [N], which of a client's own records are in."""
        mine = self.owners[: len(self.places)] == client
        kept = np.ones(self.sizes[client], dtype=bool)
        kept[self.places[mine]] = half[: len(self.places)][mine]
        return kept

    def added(self, client: int, half: np.ndarray) -> np.ndarray:
        """Positions of the fresh records that a client gets."""
        return np.flatnonzero((self.owners == client) & half & ~self.members)


@dataclass(frozen=True)
class Planter:
    """Puts judged records in and takes them out, before the first release of a pipeline."""

    judged: Judged
    half: np.ndarray

    def begin(self, federation: Federation, run_id: str, plan: RunPlan) -> None:
        """See `mosaic_secure.engine.local.Witness`."""
        for number, client in enumerate(federation.clients):
            more = self.judged.added(number, self.half)
            folder = ClientHome(federation.home / client, client).cache(run_id)
            kept = self.judged.kept(number, self.half)
            plant_records(folder, self.judged.images[more], self.judged.labels[more], kept)

    def observe(self, kind: Literal["request", "reply"], node_id: int, message: bytes) -> None:
        """Nothing of a pipeline is looked at but its end."""
