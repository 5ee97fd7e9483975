"""Where data lie: the given root, the environment, or a cache for downloads."""

from __future__ import annotations

import os
from pathlib import Path

from mosaic_secure.errors import UserError

ENVIRONMENT = "MOSAIC_DATA"


def given_root(configured: str | None, root: str | Path | None = None) -> Path | None:
    """The folder that the user named: ``root``, else the configured one, else ``MOSAIC_DATA``; None if none.

    Raises:
        UserError: the named folder does not exist.
    """
    for source, value in (
        ("--data-root", root),
        ("data.root", configured),
        (ENVIRONMENT, os.environ.get(ENVIRONMENT) or None),
    ):
        if value is not None:
            path = Path(value).expanduser()
            if not path.is_dir():
                raise UserError(f"{source} {path}: no such folder; give the folder that holds the data sets")
            return path
    return None


def cache_root() -> Path:
    """Where downloads go when no root is named: ``mosaic-secure`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mosaic-secure"
