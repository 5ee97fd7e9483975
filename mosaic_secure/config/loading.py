"""Read a configuration by name or path, lay overrides over it, and hash the outcome."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_secure.config.problems import field_paths, unknown_field
from mosaic_secure.config.run import RunConfig
from mosaic_secure.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_NOTHING = {"none", "null"}
_PLACES = (("data", "root"), ("data", "download"), ("engine", "name"), ("engine", "workers"))


def config_folder() -> Path:
    """The folder of the ready configurations: inside an installed package, or beside it in a checkout."""
    for folder in _FOLDERS:
        if folder.is_dir() and any(folder.glob("*.toml")):
            return folder
    raise UserError("the ready configurations are missing here: give --config the path of a .toml file")


def config_names() -> tuple[str, ...]:
    """Names of the ready configurations, sorted."""
    return tuple(sorted(path.stem for path in config_folder().glob("*.toml")))


def load_config(name_or_path: str | Path = "digits", overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a ready configuration or a TOML file, lay dotted overrides over it and check the whole.

    Args:
        name_or_path: a name of ``config_names()``, or the path of a ``.toml`` file.
        overrides: ``{"privacy.epsilon": "4", ...}``. Text is read as a TOML value where it is one, ``none``
            empties an optional field, and ``a,b`` fills a list. A section may be given as a whole mapping.

    Raises:
        UserError: no such configuration, a file that is not TOML, or a wrong field (named in the line).
    """
    values = _read(name_or_path)
    for key, value in (overrides or {}).items():
        _lay(values, key, _parse(value))
    return RunConfig.from_dict(values)


def config_hash(config: RunConfig) -> str:
    """SHA-256 (hex) of everything that decides the result.

    Left out are where data lie and which engine with how many workers computes: they change no result.
    """
    values = config.to_dict()
    for section, name in _PLACES:
        values[section].pop(name)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(name_or_path: str | Path) -> dict[str, Any]:
    given = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or given.endswith(".toml") or "/" in given
    path = Path(given).expanduser() if is_path else config_folder() / f"{given}.toml"
    if not path.is_file():
        if is_path:
            raise UserError(f"config {given}: no such file")
        names = ", ".join(config_names())
        raise UserError(f"config {given!r}: unknown; choose one of {names}, or the path of a .toml file")
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config {given}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"config {given}: cannot be read: {error.strerror}") from None


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in _NOTHING:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return value
    if set(parsed) == {"value"} and isinstance(parsed["value"], bool | int | float | str | list | dict):
        return parsed["value"]
    return value


def _lay(values: dict[str, Any], key: str, value: Any) -> None:
    known = set(field_paths(RunConfig))
    *sections, last = key.split(".")
    if key not in known and ".".join(sections) not in _open_fields():
        raise UserError(unknown_field(key, RunConfig))
    target = values
    for section in sections:
        inner = target.get(section)
        if not isinstance(inner, dict):
            inner = target[section] = {}
        target = inner
    if isinstance(value, Mapping) and isinstance(target.get(last), dict) and key not in _open_fields():
        for name, item in value.items():
            _lay(values, f"{key}.{name}", item)
    else:
        target[last] = value


def _open_fields() -> set[str]:
    """Fields that hold a mapping with keys of the user's own."""
    return {"global_model.options", "data.declared_records", "classifier.learning_rates"}
