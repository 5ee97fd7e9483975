"""The configuration that an interrupted run goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_secure.errors import UserError
from mosaic_secure.runs.directory import RunDirectory

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

PLACES = frozenset({"data.root", "data.download", "engine.name", "engine.workers", "engine.patience"})
"""Fields that say where things are or run; they change no result and may change on a resume."""


def stored_config(path: str | Path, places: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration that a run was started with, with other places where given.

    Args:
        path: the run directory.
        places: dotted fields out of :data:`PLACES` and their new values.

    Raises:
        UserError: there is no run at `path`, or it kept no configuration.
    """
    from mosaic_secure.config import RunConfig

    content = RunDirectory.open(path).manifest.get("config")
    if not isinstance(content, dict):
        raise UserError(f"run {path} kept no configuration: repeat the options that it was started with")
    for name, value in (places or {}).items():
        section, field = name.split(".")
        content = {**content, section: {**content.get(section, {}), field: value}}
    return RunConfig.from_dict(content)
