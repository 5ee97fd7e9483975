"""Turn pydantic's findings into the one line that a user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_PATIENCE = 80
_RANGE = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_KINDS = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a table of names and values",
    "model_type": "a section with fields of its own",
}


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from field_paths(inner, f"{path}.")


def unknown_field(path: str, model: type[BaseModel]) -> str:
    """The line for a key that does not exist, with the nearest one that does."""
    known = list(field_paths(model))
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:
        last = path.rsplit(".", 1)[-1]
        by_name = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        near = [by_name[name] for name in difflib.get_close_matches(last, list(by_name), n=1, cutoff=0.75)]
    hint = f"did you mean {near[0]}?" if near else "see `mosaic-secure configs` for the fields there are"
    return f"{path}: unknown; {hint}"


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line naming the field, the value it got, and what would be right."""
    known = set(field_paths(model))
    findings = error.errors(include_url=False)
    first = next((item for item in findings if item["type"] == "extra_forbidden"), findings[0])
    full = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown_field(full, model)
    path = full
    while path and path not in known:
        path = path.rpartition(".")[0]
    same = [item for item in findings if ".".join(map(str, item["loc"])).startswith(path)]
    wanted = ", or ".join(dict.fromkeys(_wanted(item, _bounds(path, model)) for item in same))
    more = len({_field_of(item, known) for item in findings}) - 1
    tail = f" (and {more} more wrong field{'s' if more > 1 else ''})" if more else ""
    return f"{path or full} = {_shown(first['input'])}: {wanted}{tail}"


def _field_of(item: Any, known: set[str]) -> str:
    path = ".".join(str(part) for part in item["loc"])
    while path and path not in known:
        path = path.rpartition(".")[0]
    return path


def _wanted(item: Any, bounds: str) -> str:
    kind = item["type"]
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}{'' if kind == 'dict_type' else bounds}"
    if kind in _BOUNDS and bounds:
        return f"must be{bounds}"
    text = item["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return text.replace("should be", "must be", 1).replace("should ", "must ", 1)


def _bounds(path: str, model: type[BaseModel]) -> str:
    """The allowed range of a field in words, or nothing when it has none."""
    *sections, last = path.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    field = model.model_fields.get(last)
    if field is None:
        return ""
    marks = list(field.metadata)
    for inner in get_args(field.annotation):
        marks += getattr(inner, "__metadata__", ())
    marks = [part for mark in marks for part in getattr(mark, "metadata", [mark])]
    words = [
        f"{word} {getattr(mark, key):g}"
        for mark in marks
        for key, word in _RANGE.items()
        if hasattr(mark, key)
    ]
    return f" {' and '.join(words)}" if words else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _PATIENCE else text[: _PATIENCE - 3] + "..."
