"""The one spelling of a JSON value wherever it is hashed or signed."""

from __future__ import annotations

import json


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no spaces; raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_canonical(data: bytes) -> dict[str, object]:
    """The object that `data` spells; raises ValueError unless it is a canonical JSON object."""
    try:
        value = json.loads(data.decode("ascii"))
        if isinstance(value, dict) and canonical_json(value) == data:
            return value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    raise ValueError("not the canonical text of a JSON object")
