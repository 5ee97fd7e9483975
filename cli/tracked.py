"""Runs with an experiment tracker beside them: the option ``--log`` of the commands that train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import warn

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.progress import ReadingCallback

__all__ = ["Log"]


@dataclass(frozen=True)
class Log:
    """What ``--log`` and ``--log-dir`` ask for; `kinds` is None where no tracker is wanted."""

    kinds: str | None
    folder: Path

    def check(self, config: RunConfig) -> None:
        """Raise UserError for what cannot be told, before anything is made."""
        if self.kinds is not None:
            from mosaic_secure.runs.tracking import check_trackers, parse_kinds

            check_trackers(parse_kinds(self.kinds), self.folder, config)

    @contextlib.contextmanager
    def beside(self, run: Path, name: str) -> Iterator[ReadingCallback | None]:
        """Trackers of the run that the block makes at `run`, told its results if it ends well."""
        if self.kinds is None:
            yield None
            return
        from mosaic_secure.runs.tracking import open_trackers, parse_kinds

        with open_trackers(parse_kinds(self.kinds), name, self.folder, warn) as tracking:
            yield tracking.read
            tracking.finish(run)

    def options(self) -> dict[str, object]:
        """The options as they were given, to repeat a command."""
        return {} if self.kinds is None else {"--log": self.kinds, "--log-dir": self.folder}
