"""A checkpoint as one unit: tensors and facts that are read back together and whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.runs.encoding import (
    SCHEMA_VERSION,
    jsonable,
    parse_json,
    parse_tensors,
    sha256,
    tensor_bytes,
)
from privacy.canonical import canonical_json


def pack(name: str, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> bytes:
    """Pack one stage: a JSON line (stage, facts, SHA-256 of both parts), then the tensors as safetensors."""
    payload = tensor_bytes(tensors)
    header = {"schema_version": SCHEMA_VERSION, "stage": name, "meta": jsonable(meta)}
    header["sha256"] = sha256(canonical_json(header) + b"\n" + payload)
    return json.dumps(header, allow_nan=False).encode() + b"\n" + payload


def unpack(name: str, data: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`pack` wrote.

    Raises:
        UserError: the file is damaged or belongs to another stage; `where` names it.
    """
    first, newline, payload = data.partition(b"\n")
    damaged = f"checkpoint {where} is damaged; remove that file to repeat the stage, or start a new run"
    try:
        header = parse_json(first, where) if newline else {}
    except UserError as error:
        raise UserError(damaged) from error
    digest = header.pop("sha256", None)
    if digest != sha256(canonical_json(header) + b"\n" + payload) or header.get("stage") != name:
        raise UserError(damaged)
    return parse_tensors(payload, where), header["meta"]
