"""`train --federation` and `--local-cluster`: the run is made by processes of a deployed federation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.progress import ProgressCallback


@dataclass(frozen=True)
class Deployed:
    """Which federation makes the run.

    Attributes:
        place: its folder; of a local cluster, one beside the ledgers when None.
        cluster: number of clients to start here; None where the federation is running.
    """

    place: Path | None
    cluster: int | None

    def options(self) -> dict[str, object]:
        """What the command line must say to go on with it."""
        given = {"--federation": self.place, "--local-cluster": self.cluster}
        return {option: value for option, value in given.items() if value is not None}

    def run(
        self,
        config: RunConfig,
        out: Path,
        resume: bool,
        ablate: bool,
        ledger_dir: Path | None,
        progress: ProgressCallback,
    ) -> Any:
        """Make the run, starting and ending the processes of a local cluster around it."""
        from mosaic_secure.deployment.cluster import LocalCluster, cluster_place
        from mosaic_secure.deployment.driver import train_deployed
        from mosaic_secure.engine.local import ledger_place
        from mosaic_secure.errors import UserError

        asked = {"out": out, "resume": resume, "ablate": ablate, "progress": progress}
        if self.cluster is None:
            if self.place is None:
                raise UserError("engine.name = 'deployed': needs --federation or --local-cluster")
            return train_deployed(config, self.place, **asked)
        place = self.place or cluster_place(config, ledger_place(ledger_dir))
        cluster = LocalCluster(config, place, config.data.root, _tell)
        _tell("starts, each as a process of its own:")
        for command in cluster.commands:
            _tell(f"  {command}")
        _tell(f"  mosaic-secure train --federation {place} ...")
        with cluster:
            return train_deployed(config, place, port=cluster.port, **asked)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
