"""JSON and tensors as bytes, without pickle: one schema version, and infinities written as words."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_secure.errors import UserError

SCHEMA_VERSION = 1


def jsonable(value: Any) -> Any:
    """Turn `value` into what strict JSON can hold.

    Numpy scalars and arrays become numbers and lists, tuples become lists, and an infinite number becomes the
    string ``"inf"`` or ``"-inf"``.

    Raises:
        ValueError: NaN; write ``None`` for a number that does not exist.
        TypeError: a value that JSON has no form for, or a key that is not a string.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("NaN has no place in a JSON file: write null for a number that does not exist")
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of a JSON object are strings")
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = sorted(value) if isinstance(value, set | frozenset) else value
        return [jsonable(entry) for entry in entries]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def json_document(record: Mapping[str, Any]) -> bytes:
    """A JSON file for people and programs: indented, with ``schema_version`` first."""
    content = {"schema_version": SCHEMA_VERSION, **jsonable(record)}
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_line(record: Mapping[str, Any]) -> bytes:
    """One line of a JSONL file, with ``schema_version`` first and the newline at its end."""
    content = {"schema_version": SCHEMA_VERSION, **jsonable(record)}
    return (json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the bytes are not a JSON object of this schema version; `name` says which file that is.
    """
    try:
        content = json.loads(data)
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{name} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} is damaged: expected a JSON object")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(f"{name}: schema_version {version!r}; expected {SCHEMA_VERSION}")
    return content


def tensor_bytes(tensors: Mapping[str, Any]) -> bytes:
    """Numpy arrays or torch tensors by name as safetensors bytes; equal input gives equal bytes."""
    from safetensors.numpy import save

    return save({name: _as_array(tensors[name]) for name in sorted(tensors)})


def parse_tensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Read safetensors bytes into numpy arrays.

    Raises:
        UserError: the bytes are damaged; `name` says which file that is.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {key: array.copy() for key, array in load(data).items()}  # writable, and free of `data`
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{name} is damaged: it is not a safetensors file") from error


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, without importing torch for arrays
        value = value.detach().cpu().numpy()
    return np.asarray(value, order="C")
