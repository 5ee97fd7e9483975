"""Where a client's records lie: for its own machine to say, and never for the server's plan.

In a simulation whoever starts the run owns the paths in its configuration. A client on a machine of its own
gets the configuration from a server, so there every path in it is replaced by the client's own, or removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_secure.data import ClientDataError, check_available, load_client
from mosaic_secure.data.folder import check_images, list_classes, list_labelled
from mosaic_secure.errors import UserError
from mosaic_secure.protocol.failures import note_failure

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = ["Places", "check_own_data"]


@dataclass(frozen=True)
class Places:
    """Where one party finds records, as its own machine says.

    Attributes:
        data_root: folder of the named public benchmarks. data: folder with this client's own images, one
            sub-folder a class. Both None where they were not given.
        deployed: whether the client is on a machine of its own, and configurations come from elsewhere.
    """

    data_root: str | None = None
    data: str | None = None
    deployed: bool = False

    @classmethod
    def of(cls, node_config: Mapping[str, object]) -> Places:
        """The places in a node's configuration: "data_root", "data" and "deployed", all optional.

        Whatever "deployed" is but False counts as true: a slip of the pen must not open a path.
        """

        def text(name: str) -> str | None:
            value = node_config.get(name)
            return None if value is None or value == "" else str(value)

        return cls(text("data_root"), text("data"), node_config.get("deployed", False) is not False)

    def check(self, config: RunConfig) -> None:
        """Refuse a plan that would need a path of the server's, or a folder that this client has not got.

        Only asked of a deployed client. The answer depends on no record, and on no name below the folder.

        Raises:
            UserError: the plan needs paths, or public data that are not there. ClientDataError: the client's
                own folder is not given or not readable; the line is for the client's own display.
        """
        if not self.deployed:
            return
        data, partition = config.data, config.partition
        if data.dataset == "folder" and data.clients_from != "own":
            raise UserError(
                f"data.clients_from = {data.clients_from!r}: takes the records from paths of the server; a "
                "deployed client answers about its own folder, with 'own'"
            )
        if data.clients_from == "own":
            self.own_folder()
        elif partition.kind == "given":
            raise UserError(
                "partition.kind = 'given': deals records by a file of the server; a deployed client takes "
                "'dirichlet', 'shards' or 'iid'"
            )
        else:
            check_available(self.applied(config).data, self.data_root)

    def applied(self, config: RunConfig) -> RunConfig:
        """The configuration with this client's places for those of the server. Not for hashes: those are of
        what was agreed."""
        gone: dict[str, object] = {"root": None}
        if not self.deployed:
            return config.model_copy(update={"data": config.data.model_copy(update=gone)})
        own = self.data if config.data.clients_from == "own" else None
        gone |= {"path": own, "csv": None, "test_path": None, "download": False}
        return config.model_copy(
            update={
                "data": config.data.model_copy(update=gone),
                "partition": config.partition.model_copy(update={"path": None}),
            }
        )

    def note_strangers(self, config: RunConfig, home: Path) -> None:
        """Note at home, for the owner alone, sub-folders of no class of the run: their records take no part.

        To refuse a run for them would let a server guess the classes of this client, one name after another.
        """
        if not self.deployed or config.data.clients_from != "own":
            return
        try:
            list_labelled(self.own_folder(), config.data.class_names or ())
        except (UserError, OSError) as error:
            note_failure(str(home), "own data at enrolment", error)

    def own_folder(self) -> Path:
        """The folder of this client's own images; raises ClientDataError if it cannot be read."""
        if self.data is None:
            raise ClientDataError(
                "data: this client was given no folder of its own records; start it with --data FOLDER"
            )
        folder = Path(self.data).expanduser()
        if not folder.is_absolute():
            raise ClientDataError(f"data {folder}: must be an absolute path")
        if not folder.is_dir():
            raise ClientDataError(f"data {folder}: no such folder; it must hold one sub-folder a class")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ClientDataError(f"data {folder}: cannot be read; allow this user to")
        return folder


def check_own_data(places: Places, config: RunConfig | None = None, index: int = 0) -> None:
    """Look at a client's records on its own machine, before it answers anybody.

    What is wrong with them is told here, in words, so that it does not come up later, when all that a server
    may hear is one word.

    Args:
        places: of the client.
        config: of the run, where it is known. Then the records are read as that run would read them, and a
            folder of no class of it is refused; otherwise the images of all sub-folders are opened once.
        index: position of the client in the run.

    Raises:
        ClientDataError: the folder or a file in it cannot be used; the line names it, for its owner alone.
        UserError: the plan needs paths of the server, or public data are not there.
    """
    if config is not None:
        places.check(config)
        load_client(places.applied(config), index, places.data_root)
        return
    folder = places.own_folder()
    try:
        classes = list_classes(folder)
        check_images([file for files in classes.values() for file in files])
    except UserError as error:
        raise ClientDataError(str(error)) from None
    except OSError as error:
        raise ClientDataError(f"data {error.filename or folder}: cannot be read ({error.strerror})") from None
