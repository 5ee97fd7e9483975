"""A client's right to leave: from one run, or from all, at any moment and without asking anybody.

A withdrawal is a file in the client's own home. While it is there, whatever a server asks of that run is
answered with the one word "withdrawn", and nothing is released. What was released before cannot be called
back, and stays charged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mosaic_secure.errors import UserError
from privacy.canonical import canonical_json
from privacy.errors import BudgetError
from privacy.policy import check_name
from privacy.storage import sync_directory, write_durably

__all__ = ["Withdrawal", "Withdrawn", "check_takes_part", "has_left", "rejoin", "withdraw", "withdrawals"]

FOLDER = "withdrawn"
_ALL = "all.json"
_RUN = "run-"
_SCHEMA_VERSION = 1


class Withdrawn(UserError):
    """The client has withdrawn from the run that it is asked about."""

    code = "withdrawn"


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal: of which run (None: of all), and since when (UTC; empty where the file is damaged)."""

    run_id: str | None
    time: str

    @property
    def text(self) -> str:
        """What it means, for whoever withdraws."""
        scope = "all runs" if self.run_id is None else f"run {self.run_id}"
        since = f" since {self.time}" if self.time else ""
        return (
            f"withdrawn from {scope}{since}: every request is answered with the word 'withdrawn', and "
            "nothing is released any more. What was released before cannot be called back: others have it, "
            "and models made from it stay as they are. The ledger keeps what was spent."
        )


def withdraw(home: Path, run_id: str | None = None) -> Withdrawal:
    """Leave one run, or all of them, now and for every request to come; durable before return.

    An answer that is being made at this moment is held back as well: it is charged, but not sent. A
    withdrawal that is there already stays as it is.

    Args:
        home: the client's directory. run_id: of the run to leave; all runs, later ones too, if None.

    Raises:
        UserError: there is no such home, or no run can have that name.
    """
    if not home.is_dir():
        raise UserError(f"{home}: no such folder; give the home of a client")
    path = _path(home, run_id)
    body = {"schema_version": _SCHEMA_VERSION, "run_id": run_id, "time": _now()}
    try:
        write_durably(path, canonical_json(body) + b"\n", replace=False)
    except FileExistsError:
        return _read(path)
    return _read(path)


def rejoin(home: Path) -> None:
    """Take back a withdrawal from all runs. Runs that were left one by one stay left.

    Raises:
        UserError: the client had not withdrawn from all runs.
    """
    path = _path(home, None)
    try:
        path.unlink()
    except FileNotFoundError:
        raise UserError(
            f"{home}: has not withdrawn from all runs, so there is nothing to take back"
        ) from None
    sync_directory(path.parent)


def withdrawals(home: Path) -> tuple[Withdrawal, ...]:
    """All that stand, that from all runs first."""
    found = [_read(path) for path in sorted((home / FOLDER).glob("*.json"))]
    return tuple(sorted(found, key=lambda item: (item.run_id is not None, item.run_id or "")))


def check_takes_part(home: Path, run_id: str) -> None:
    """Raise `Withdrawn` if the client has left this run or all of them.

    That the file is there decides, whatever it holds: damage to it opens no door.
    """
    for scope in (None, run_id):
        path = _path(home, scope)
        if path.exists():
            raise Withdrawn(_read(path).text)


def has_left(home: Path, run_id: str) -> bool:
    """Whether the client has left this one run, which cannot be taken back."""
    return _path(home, run_id).exists()


def _path(home: Path, run_id: str | None) -> Path:
    if run_id is None:
        return home / FOLDER / _ALL
    try:
        return home / FOLDER / f"{_RUN}{check_name('run id', run_id)}.json"
    except BudgetError as error:
        raise UserError(str(error)) from None


def _read(path: Path) -> Withdrawal:
    run_id = None if path.name == _ALL else path.stem.removeprefix(_RUN)
    try:
        time = json.loads(path.read_bytes())["time"]
    except (OSError, ValueError, KeyError, TypeError):
        time = ""
    return Withdrawal(run_id, time if isinstance(time, str) else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
