"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaic_secure.errors import UserError
from privacy.storage import PRIVATE_DIRECTORY, make_private_directory, sync_directory


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A new folder of mode 0700, which takes the name `place` when the block ends well and else is removed.

    Raises:
        UserError: `place` exists and is not an empty folder, or cannot be made.
    """
    target = Path(os.path.abspath(place))  # '.' and '..' have no name to put a folder beside
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"{place}: exists and is not an empty folder; name a new one, nothing is overwritten")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        make_private_directory(target.parent)
        temporary.mkdir(mode=PRIVATE_DIRECTORY)
    except OSError as error:
        raise UserError(f"{place}: cannot be made ({error.strerror})") from None
    try:
        yield temporary
        try:
            os.replace(temporary, target)  # of two at once, or over a folder that was filled, one fails
        except OSError as error:
            raise UserError(f"{place}: cannot be made ({error.strerror})") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(target.parent)
