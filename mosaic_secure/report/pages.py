"""What all pages share: the template engine, the house style, and how numbers are written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

__all__ = ["percent", "render", "short", "size", "upper"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page of that template, which escapes all that is put into it; `style` is the house style.

    Every page carries its style sheet in itself. A name that a template asks for in vain is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "percent": percent, "size": size}
    style = Markup((_TEMPLATES / "house.css").read_text("utf-8"))
    return environment.get_template(template).render(style=style, **values)


def short(value: float | str) -> str:
    """Three significant digits; a word such as ``"inf"`` as it is."""
    return str(value) if isinstance(value, str) else f"{value:.3g}"


def upper(epsilon: float | str) -> str:
    """An epsilon with three decimals, rounded up: what is written must not claim more than holds."""
    value = float(epsilon)
    return "inf" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:g}"


def size(count: int) -> str:
    """A number of bytes, in a unit that fits."""
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= width:
            return f"{count / width:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{count}\N{NO-BREAK SPACE}bytes"


def percent(value: float) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
