"""A page as plain parts, written once and shown twice: as HTML in the house style, and as Markdown."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import ClassVar

from mosaic_secure.report.pages import render

__all__ = [
    "Box",
    "Bullets",
    "Document",
    "Facts",
    "Link",
    "Picture",
    "Section",
    "Table",
    "to_html",
    "to_markdown",
]


@dataclass(frozen=True)
class Link:
    """A place of the same pack, relative to the page."""

    text: str
    href: str


Text = str | Link


@dataclass(frozen=True)
class Table:
    """Rows under the names of their columns; `numbers`: positions of columns that hold numbers."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    caption: str = ""
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """Terms and what is said of each."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Bullets:
    """A list."""

    kind: ClassVar[str] = "bullets"
    items: tuple[Text, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG that the page carries in itself; Markdown shows its caption alone."""

    kind: ClassVar[str] = "picture"
    png: bytes
    alt: str
    caption: str

    @property
    def address(self) -> str:
        """The picture as an address that holds it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


Block = str | Table | Facts | Bullets | Picture


@dataclass(frozen=True)
class Box:
    """What stands out: `mood` is pass, fail or none."""

    mood: str
    word: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a text is a paragraph."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """One page: a line `above` its heading, one box, sections."""

    title: str
    above: str
    box: Box
    sections: tuple[Section, ...]


def to_html(document: Document) -> str:
    """One file that needs nothing else: no script, nothing fetched."""
    return render("document.html", document=document)


def to_markdown(document: Document) -> str:
    """The same words, for diffs and for places that show no HTML."""
    parts = [f"# {_plain(document.title)}", _plain(document.above)]
    parts.append(f"**{_plain(document.box.word)}**")
    parts += [_plain(line) for line in document.box.lines]
    for section in document.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, str):
        return _plain(block)
    if isinstance(block, Facts):
        return "\n".join(f"- **{_plain(term)}**: {_plain(said)}" for term, said in block.pairs)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text(item)}" for item in block.items)
    if isinstance(block, Picture):
        return f"({_plain(block.caption)})"
    rule = " | ".join("---:" if index in block.numbers else "---" for index in range(len(block.columns)))
    lines = [" | ".join(map(_plain, block.columns)), rule]
    lines += [" | ".join(map(_text, row)) for row in block.rows]
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{_plain(block.caption)}\n\n{table}" if block.caption else table


def _text(cell: Text) -> str:
    return f"[{_plain(cell.text)}]({cell.href})" if isinstance(cell, Link) else _plain(cell)


def _plain(text: str) -> str:
    """What a user or a run has named cannot become markup, and stays on its line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
