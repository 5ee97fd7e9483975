"""Reading the one spelling of JSON that is signed and hashed."""

from __future__ import annotations

import json

from privacy.heads import canonical_json

__all__ = ["canonical_json", "parse_canonical"]


def parse_canonical(data: bytes) -> dict[str, object]:
    """The object that `data` spells; raises ValueError unless it is the canonical spelling of a JSON object.

    Repeated keys, spaces, NaN and over-deep nesting are not canonical. Callers bound the size of `data`
    first.
    """
    try:
        value = json.loads(data.decode("ascii"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict) or canonical_json(value) != data:
        raise ValueError("not the canonical JSON text of an object")
    return value
