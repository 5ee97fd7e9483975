"""Read a configuration by name or path, lay overrides over it, and hash the outcome."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_secure.config.layers import ONE_ARCHITECTURE, layers_of, take_tables
from mosaic_secure.config.problems import field_paths, unknown_field
from mosaic_secure.config.run import RunConfig
from mosaic_secure.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_NOTHING = {"none", "null"}
_GLOBAL: list[str] = []  # stands for the architecture of the global model, until that is known
_PLACES = (
    ("data", "root"),
    ("data", "download"),
    ("engine", "name"),
    ("engine", "workers"),
    ("engine", "patience"),
)


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
    """Read a ready configuration or a TOML file, lay method, preset and overrides over it, and check it.

    The settings of the method and the preset (`mosaic_secure.config.layers`) come over those of the file, and
    the overrides over both.

    Args:
        name_or_path: a name of ``config_names()``, or the path of a ``.toml`` file.
        overrides: ``{"privacy.epsilon": "4", ...}``. Text is read as a TOML value where it is one, ``none``
            empties an optional field, and ``a,b`` fills a list. A section may be given as a whole mapping.

    Raises:
        UserError: no such configuration, a file that is not TOML, or a wrong field (named in the line).
    """
    values = _read(name_or_path)
    given = {key: _parse(value) for key, value in (overrides or {}).items()}
    tables = take_tables(values, str(name_or_path))
    method, preset = (
        given.get(key, values.get(key, RunConfig.model_fields[key].default)) for key in ("method", "preset")
    )
    if method in ONE_ARCHITECTURE:
        _lay_section(values, "clients", {"architectures": _GLOBAL})
    for layer in layers_of(method, preset, tables, str(name_or_path)):
        for section, settings in layer.items():
            _lay_section(values, section, settings)
    for key, value in given.items():
        _lay(values, key, value)
    clients, chosen = values.get("clients"), values.get("global_model")
    if isinstance(clients, dict) and clients.get("architectures") is _GLOBAL and isinstance(chosen, dict):
        clients["architectures"] = [chosen["architecture"]]
    return RunConfig.from_dict(values)


def config_hash(config: RunConfig) -> str:
    """SHA-256 (hex) of everything that decides the result.

    Left out are where data lie and which engine with how many workers computes: they change no result. So
    is the switch of pairwise masks where it is off, for runs that were made before there was one.
    """
    values = config.to_dict()
    for section, name in _PLACES:
        values[section].pop(name)
    if not config.privacy.pairwise_masks:
        values["privacy"].pop("pairwise_masks")
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


def _lay_section(values: dict[str, Any], section: str, settings: Mapping[str, Any]) -> None:
    """Lay a layer's section over that of a file; one learning rate in it is meant for all architectures.

    A section that is none in the file is left for the check of the whole to name.
    """
    _lay(values, section, values.get(section, {}))
    if not isinstance(values[section], dict):
        return
    if section == "classifier" and "learning_rate" in settings:
        values[section].pop("learning_rates", None)
    for name, value in settings.items():
        _lay(values, f"{section}.{name}", value)


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
