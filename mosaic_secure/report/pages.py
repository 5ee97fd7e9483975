"""What all pages share: one style, templates that leave no blank unnoticed, and how numbers are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["percent", "render", "short", "size"]

_TEMPLATES = Path(__file__).parent / "templates"
_SPACE = "\N{NO-BREAK SPACE}"


def render(template: str, **content: Any) -> str:
    """A page from a template, with the style of the house; text is escaped, a missing name is refused."""
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
    return environment.get_template(template).render(style=style, **content)


def short(value: float | str) -> str:
    """A number to three digits; text as it is."""
    return str(value) if isinstance(value, str) else f"{value:.3g}"


def size(count: int) -> str:
    """A number of bytes."""
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= width:
            return f"{count / width:.3g}{_SPACE}{unit}"
    return f"{count}{_SPACE}bytes"


def percent(value: float) -> str:
    """A share to three digits."""
    return f"{100 * value:.3g}{_SPACE}%"
