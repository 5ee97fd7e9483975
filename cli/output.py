"""What commands print: tables and JSON on standard output, warnings on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on one line: the last line of standard output."""
    from mosaic_secure.runs.encoding import jsonable

    print(json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False), flush=True)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows in aligned columns under the names of their fields."""
    if not rows:
        return
    columns = list(rows[0])
    lines = [[name.replace("_", " ") for name in columns]]
    lines += [[cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, a line each."""
    width = max(len(name) for name in facts) if facts else 0
    for name, value in facts.items():
        print(f"{name.replace('_', ' ').ljust(width)}  {cell(value)}")


def cell(value: Any) -> str:
    """A value as a table shows it: four significant digits, ``-`` for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def warn(message: str) -> None:
    """A warning on standard error, in red where that is a terminal."""
    red, plain = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}WARNING: {message}{plain}", file=sys.stderr, flush=True)
