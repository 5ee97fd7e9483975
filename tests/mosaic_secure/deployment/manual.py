"""docs/deploy.md, read by a program: which commands it tells on which machine, and the runs that it names."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parents[3]
MANUAL = HOUSE / "docs" / "deploy.md"
FINGERPRINT = "FINGERPRINT"
SERVER = "fl.example.org"
_FENCE = re.compile(r"^```(\w+)\n# ([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Commands for one place, such as "server" or "each client; here client-0", each as its words."""

    place: str
    commands: tuple[tuple[str, ...], ...]


def blocks() -> list[Block]:
    """All blocks of commands, in the order of the document."""
    return [Block(place, _commands(body)) for kind, place, body in _fences() if kind == "bash"]


def block(place: str, nth: int = 0) -> Block:
    """The nth block for that place."""
    return [found for found in blocks() if found.place == place][nth]


def run_file(name: str) -> dict[str, Any]:
    """The run.toml of that name, "trial" or "own images"."""
    found = [body for kind, place, body in _fences() if kind == "toml" and place == f"run.toml, {name}"]
    return tomllib.loads(found[0])


def as_toml(values: Mapping[str, Any]) -> str:
    """Nested values as a TOML document; leaves are numbers, texts, booleans and lists of them."""
    lines: list[str] = []

    def write(section: str, inside: Mapping[str, Any]) -> None:
        if section:
            lines.append(f"[{section}]")
        tables = {name: value for name, value in inside.items() if isinstance(value, Mapping)}
        lines.extend(f"{name} = {_leaf(value)}" for name, value in inside.items() if name not in tables)
        for name, value in tables.items():
            write(f"{section}.{name}" if section else name, value)

    write("", values)
    return "\n".join(lines) + "\n"


def _leaf(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_leaf(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _fences() -> list[tuple[str, str, str]]:
    return _FENCE.findall(MANUAL.read_text(encoding="utf-8"))


def _commands(body: str) -> tuple[tuple[str, ...], ...]:
    lines = body.replace("\\\n", " ").splitlines()
    return tuple(tuple(shlex.split(line, comments=True)) for line in lines if line.strip())
