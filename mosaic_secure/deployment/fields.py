"""How the public files of a federation are read: canonical JSON, exact fields, one line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mosaic_secure.errors import UserError
from privacy.canonical import parse_canonical

SCHEMA_VERSION = 1
_SHOWN = 60


def load_canonical(path: Path, parse: Callable[[dict[str, Any]], Any]) -> Any:
    """What `parse` makes of the canonical JSON object in a file.

    Other spellings of the same JSON are refused: a name given twice shows a reader one value and a program
    another.

    Raises:
        UserError: the file cannot be read or parsed; the line begins with its path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        values = parse_canonical(data.rstrip())
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; take the file as `mosaic-secure keys` wrote it, unedited"
        ) from None
    try:
        return parse(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def exact_fields(data: object, fields: tuple[str, ...], where: str = "") -> dict[str, Any]:
    """`data` as a dictionary with exactly these fields; raises UserError naming the one that is off."""
    if not isinstance(data, Mapping):
        raise wrong(where or "file", data, "must be an object with the fields " + ", ".join(fields))
    prefix = f"{where}." if where else ""
    for field in fields:
        if field not in data:
            raise UserError(f"{prefix}{field}: is missing")
    for field in data:
        if field not in fields:
            raise UserError(f"{prefix}{str(field)[:_SHOWN]!r}: unknown; the fields are {', '.join(fields)}")
    return dict(data)


def check_version(value: object) -> None:
    """Raise UserError unless `value` is the schema version that this program writes."""
    if type(value) is not int or value != SCHEMA_VERSION:
        raise wrong("schema_version", value, f"must be {SCHEMA_VERSION}")


def wrong(field: str, value: object, right: str) -> UserError:
    """The error that names a field, shows its (public) value shortened, and says what would be right."""
    shown = repr(value)
    return UserError(f"{field} = {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}: {right}")
