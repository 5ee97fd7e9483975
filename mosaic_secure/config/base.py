"""What every configuration section shares: frozen, closed to unknown keys, and a few field types."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer


class Section(BaseModel):
    """A frozen group of fields. Unknown keys are refused; an infinite number is written as ``"inf"``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, validate_default=True
    )


def _split(value: Any) -> Any:
    """Let the command line give a list as ``a,b,c``."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _positive_or_inf(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("must be a number greater than 0, or inf")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("must be a number greater than 0, or inf") from None
    if math.isnan(number) or number <= 0:
        raise ValueError("must be a number greater than 0, or inf")
    return number


def _write_inf(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


Epsilon = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(_positive_or_inf),
    PlainSerializer(_write_inf, when_used="json-unless-none"),
]
"""A privacy bound: a number above 0, or ``inf`` for no noise at all."""

Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list of names; ``"a,b"`` is read as two."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1, both included."""

Rate = Annotated[float, Field(gt=0, le=1)]
"""A number above 0 and at most 1."""

Positive = Annotated[float, Field(gt=0)]
"""A finite number above 0."""

Weight = Annotated[float, Field(ge=0)]
"""A finite number, 0 or more."""

Count = Annotated[int, Field(ge=1)]
"""A whole number, 1 or more."""

Options = dict[str, bool | int | float | str]
"""Keyword options handed on to a registered model as they are."""
