"""Pictures over epsilon inside a page: SVG in the page's own colours, whose points tell their runs.

A point shows a small panel while the pointer is on it or the keyboard's focus is, by the page's style alone;
a screen reader finds the same words as the name of the point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mosaic_secure.report.epsilon_axis import EpsilonAxis

__all__ = ["Mark", "Scale", "Series", "draw_bars", "draw_over_epsilon"]

_COLOURS = ("--c1", "--c2", "--c3", "--c4")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 680, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 16, 52
_ROW = 20  # of the legend, and of bars
_PLAIN = 4  # the shape of what is not of this sweep
_LETTER, _LINE = 6.9, 17  # width of a letter and height of a line in a panel, rather too much than too little


@dataclass(frozen=True)
class Mark:
    """One point: a value at an epsilon, its interval if there is one, and what it tells, a line each."""

    epsilon: float
    value: float
    interval: tuple[float, float] | None
    told: Sequence[str]


@dataclass(frozen=True)
class Series:
    """Points of one name.

    Attributes:
        joined: whether a line joins those at finite epsilons.
        plain: in the colour of text and hollow, for what is not of this sweep.
    """

    name: str
    marks: Sequence[Mark]
    joined: bool = True
    plain: bool = False


@dataclass(frozen=True)
class Scale:
    """The vertical axis.

    Attributes:
        name: what it shows. ticks: value -> label. low, high: its ends. logarithmic: whether it is.
    """

    name: str
    ticks: Mapping[float, str]
    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def percent(cls, name: str, values: Sequence[float]) -> Scale:
        """For shares in [0, 1], with room around them and about six round ticks."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = max(0.01, 0.05 * (high - low))
        low, high = max(0.0, low - room), min(1.0, high + room)
        step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6.5), 0.25)
        first = math.ceil(low / step - 1e-9)
        ticks = [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]
        return cls(name, {tick: f"{100 * tick:.0f} %" for tick in ticks}, low, high)

    def share(self, value: float) -> float:
        """From 0 at the low end to 1 at the high one; what lies outside is put on the end."""
        value = min(self.high, max(self.low, value))
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def draw_over_epsilon(
    title: str,
    scale: Scale,
    series: Sequence[Series],
    lines: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Series over epsilon, and lines such as a ceiling.

    Args:
        series: at least one with a mark.
        lines: name -> (epsilon, value) at finite epsilons, rising: drawn behind, in the colour of a ceiling.
    """
    found = [one for one in series if one.marks]
    axis = EpsilonAxis(sorted({mark.epsilon for one in found for mark in one.marks}), len(found))

    def place(position: float, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.share(position)
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * scale.share(value)

    behind, front = _frame(axis, scale, place), []
    legend = []
    for name, points in (lines or {}).items():
        inside = [place(axis.of(x), y) for x, y in points if axis.limits[0] <= x <= axis.limits[1]]
        behind.append(_line(inside, "var(--ceiling)", 2.5, ""))
        legend.append((name, "var(--ceiling)", None, ""))
    number = 0
    for column, one in enumerate(found):
        look = (
            ("var(--soft)", 4, "")
            if one.plain
            else (f"var({_COLOURS[number % 4]})", number, _DASHES[number % 4])
        )
        number += not one.plain
        colour, shape, dash = look
        finite = [place(axis.of(m.epsilon, column), m.value) for m in one.marks if math.isfinite(m.epsilon)]
        if one.joined and len(finite) > 1:
            behind.append(_line(finite, colour, 2, dash))
        for mark in one.marks:
            x, y = place(axis.of(mark.epsilon, column), mark.value)
            if mark.interval is not None:
                ends = [place(axis.of(mark.epsilon, column), value)[1] for value in mark.interval]
                behind.append(_whisker(x, *ends, colour))
            behind.append(_shape(shape, x, y, colour, hollow=one.plain))
            front.append(_told(one.name, mark, x, y))
        legend.append((one.name, colour, shape, dash if one.joined else None))
    for row, (name, colour, shape, dash) in enumerate(legend):
        x, y = _LEFT, _HEIGHT + 8 + _ROW * row
        if dash is not None:
            behind.append(_line([(x, y), (x + 34, y)], colour, 2, dash))
        if shape is not None:
            behind.append(_shape(shape, x + 17, y, colour, hollow=shape == _PLAIN))
        behind.append(f'<text x="{x + 42}" y="{y + 4}">{escape(name)}</text>')
    height = _HEIGHT + 4 + _ROW * len(legend)
    said = f"{title}. Points can be reached with the Tab key; the table below holds the same numbers."
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="group" aria-label="{escape(said)}">'
        f"{''.join(behind)}{''.join(front)}</svg>"
    )


def draw_bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars of name, length and label; lengths below 0 go to the left."""
    most = max((abs(value) for _, value, _ in rows), default=0.0) or 1.0
    left = 176
    least = min(0.0, *(value for _, value, _ in rows)) if rows else 0.0
    unit = (_WIDTH - left - 136) / (most - least if least < 0 else most)
    zero = left - least * unit
    parts = []
    for number, (name, value, label) in enumerate(rows):
        y = 8 + (_ROW + 4) * number
        start, width = (zero, value * unit) if value >= 0 else (zero + value * unit, -value * unit)
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{start:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{_ROW}" fill="var(--c1)"/>'
        )
        end = max(zero, start + width) + 8
        parts.append(f'<text x="{end:.1f}" y="{y + 14}">{escape(label)}</text>')
    height = 12 + (_ROW + 4) * len(rows)
    parts.append(f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="2" y2="{height - 4}"/>')
    said = ", ".join(f"{name} {label}" for name, _, label in rows)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}: {escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(axis: EpsilonAxis, scale: Scale, place) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value, label in scale.ticks.items():
        y = place(axis.limits[0], value)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for position, label in axis.ticks.items():
        x = place(position, scale.low)[0]
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    if axis.edge is not None:
        x = place(axis.edge, scale.low)[0]
        parts.append(_line([(x, _TOP), (x, bottom)], "var(--soft)", 1, "2 4"))
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">epsilon (smaller is more private)</text>'
    )
    turned = f'transform="translate(14 {(_TOP + bottom) / 2}) rotate(-90)"'
    parts.append(f'<text class="axis-name" {turned} text-anchor="middle">{escape(scale.name)}</text>')
    return parts


def _told(name: str, mark: Mark, x: float, y: float) -> str:
    """What a point shows while it is looked at, kept within the picture, and what a screen reader says."""
    epsilon = "no noise" if math.isinf(mark.epsilon) else f"epsilon {mark.epsilon:g}"
    texts = [f"{name}, {epsilon}", *mark.told]
    wide = 16 + _LETTER * max(map(len, texts))
    high = 10 + _LINE * len(texts)
    left = min(max(4.0, x - wide / 2), _WIDTH - wide - 4)
    top = y - high - 12 if y - high - 12 >= 2 else y + 12
    lines = "".join(
        f'<text x="{left + 8:.1f}" y="{top + 4 + _LINE * (row + 0.75):.1f}">{escape(text)}</text>'
        for row, text in enumerate(texts)
    )
    panel = f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high}" rx="3"/>'
    return (
        f'<g class="mark" tabindex="0" role="img" aria-label="{escape("; ".join(texts))}">'
        f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/><g class="told">{panel}{lines}</g></g>'
    )


def _shape(number: int, x: float, y: float, colour: str, *, hollow: bool) -> str:
    """Circle, square, triangle, diamond; a hollow one is a diamond, of what is not of this sweep."""
    fill = f'fill="var(--paper)" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
    if number % 4 == 0 and not hollow:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {fill}/>'
    corners = {
        1: [(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
        2: [(0, -6), (5.5, 4), (-5.5, 4)],
        3: [(0, -6), (6, 0), (0, 6), (-6, 0)],
    }[3 if hollow else number % 4]
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}" {fill}/>'


def _whisker(x: float, low: float, high: float, colour: str) -> str:
    strokes = [(x, low, x, high), (x - 4, low, x + 4, low), (x - 4, high, x + 4, high)]
    return "".join(_line([(a, b), (c, d)], colour, 1.5, "") for a, b, c, d in strokes)


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, dash: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'
