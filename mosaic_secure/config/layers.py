"""What a method or a preset changes in a configuration: layers between the file and what the user sets.

A file may lay settings of its own over a method's layer in a table ``[methods.NAME]``, and may hold presets
of the Mosaic method in ``[presets.NAME]``. Both are gone once a configuration is made: what is stored of a
run is complete without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mosaic_secure.errors import UserError

__all__ = ["METHODS", "PRESETS", "ONE_ARCHITECTURE", "layers_of", "take_tables"]

METHODS = ("mosaic", "fedavg", "fedprox", "local", "dense", "central")
"""Mosaic, and the baselines that it is compared with."""

PRESETS = ("accuracy", "synthetic")
"""Aims of the Mosaic method; "accuracy" is what a file says outside its tables."""

ONE_ARCHITECTURE = ("fedavg", "fedprox", "central")
"""Methods whose clients train the global model itself."""

_ALONE = {"trust": "local", "honest_clients": None, "pairwise_masks": False}
_OFF = {"enabled": False}
_NO_MOSAIC = {"prototypes": _OFF, "sampler": _OFF, "generator": _OFF, "experts": _OFF, "gate": _OFF}


def _shares(**shares: float) -> dict[str, float]:
    return {
        name: shares.get(name, 0.0)
        for name in ("prototypes", "sampler", "counts", "classifier", "generator", "fine_tune")
    }


_FEDAVG: dict[str, Any] = {
    **_NO_MOSAIC,
    "privacy": {**_ALONE, "shares": _shares(counts=0.02, fine_tune=0.98)},
    "classifier": _OFF,
    "distill": _OFF,
    "global_model": {"architecture": "cnn", "options": {}},
    "fine_tune": {
        "rounds": 40,
        "steps": 2,
        "sample_rate": 0.5,
        "learning_rate": 0.5,
        "optimizer": "sgd",
        "momentum": 0.0,
        "ema_decay": 0.0,
        "proximal": 0.0,
    },
}

_LAYERS: Mapping[str, Mapping[str, Any]] = {
    "mosaic": {},
    "fedavg": _FEDAVG,
    "fedprox": {**_FEDAVG, "fine_tune": {**_FEDAVG["fine_tune"], "proximal": 0.1}},
    "local": {
        **_NO_MOSAIC,
        "privacy": {**_ALONE, "shares": _shares(classifier=1.0)},
        "classifier": {"enabled": True, "rounds": 1},
        "distill": _OFF,
        "fine_tune": {"rounds": 0},
    },
    "dense": {
        **_NO_MOSAIC,
        "privacy": {**_ALONE, "shares": _shares(counts=0.02, classifier=0.98)},
        "classifier": {"enabled": True, "rounds": 1},
        "distill": {"enabled": True},
        "fine_tune": {"rounds": 0},
        "global_model": {"architecture": "cnn", "options": {}},
    },
    "central": {
        **_FEDAVG,
        "privacy": {
            **_ALONE,
            "allowed_dropouts": 0,
            "min_contributors": None,
            "shares": _shares(fine_tune=1.0),
        },
        "clients": {"count": 1},
        "partition": {"kind": "iid", "path": None},
        "data": {"declared_records": None},
        "fine_tune": {
            **_FEDAVG["fine_tune"],
            "rounds": 1,
            "steps": 150,
            "sample_rate": 0.2,
            "momentum": 0.9,
            "ema_decay": 0.9,
        },
    },
}


def take_tables(values: dict[str, Any], where: str) -> dict[str, Mapping[str, Any]]:
    """Remove the tables of methods and presets from what a file holds, and return them by "methods.NAME".

    Raises:
        UserError: a table is of no method or preset, or is no table.
    """
    known = {"methods": METHODS[1:], "presets": PRESETS[1:]}
    found: dict[str, Mapping[str, Any]] = {}
    for kind, names in known.items():
        tables = values.pop(kind, {})
        if not isinstance(tables, Mapping):
            raise UserError(f"config {where}: {kind} must hold tables such as [{kind}.{names[0]}]")
        for name, table in tables.items():
            if name not in names:
                plain = "; the settings outside are its own" if name in (METHODS[0], PRESETS[0]) else ""
                raise UserError(
                    f"config {where}: [{kind}.{name}] is unknown, expected one of {', '.join(names)}{plain}"
                )
            for section, settings in table.items() if isinstance(table, Mapping) else [("", None)]:
                if not isinstance(settings, Mapping):
                    raise UserError(
                        f"config {where}: [{kind}.{name}] {section} must be a section, such as "
                        f"[{kind}.{name}.privacy]"
                    )
            found[f"{kind}.{name}"] = table
    return found


def layers_of(
    method: Any, preset: Any, tables: Mapping[str, Mapping[str, Any]], where: str
) -> Iterator[Mapping[str, Any]]:
    """The layers to lay over a file, the lowest first: nested sections.

    Args:
        method, preset: as chosen; what is none of them is left to the check of the configuration.
        tables: from `take_tables`. where: the file, for errors.

    Raises:
        UserError: the file has no such preset.
    """
    if method == METHODS[0] and preset in PRESETS[1:]:
        if f"presets.{preset}" not in tables:
            raise UserError(f"preset = {preset!r}: config {where} has no [presets.{preset}]; use another")
        yield tables[f"presets.{preset}"]
    if isinstance(method, str) and method in _LAYERS:
        yield _LAYERS[method]
        yield tables.get(f"methods.{method}", {})
