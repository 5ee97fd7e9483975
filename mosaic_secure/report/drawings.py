"""Pictures inside a page: SVG text in the page's own colours, so that it fits light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

__all__ = ["draw_curves", "draw_sandwich"]

_COLOURS = ("--c1", "--c2", "--c3", "--c4")
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_WIDTH, _HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 14, 52
_ROW = 20  # of the legend, below the axis
_LEAST = 1e-3  # where the logarithmic axes begin

Points = Sequence[tuple[float, float]]


def draw_curves(curves: Mapping[str, Points], ceiling: Callable[[float], float] | None) -> str:
    """Members caught over false alarms, for each attack, on logarithmic axes from 0.001 to 1.

    Args:
        curves: attack -> (false-positive rate, true-positive rate), rising.
        ceiling: the most that the guarantee allows at a false-positive rate, or None without one.
    """

    def across(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _place(value)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * _place(value)

    ticks = (0.001, 0.01, 0.1, 1.0)
    parts = []
    for tick in ticks:
        x, y = across(tick), up(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{100 * tick:g} %"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{label}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">false alarms</text>')
    turned = f'transform="translate(14 {_HEIGHT / 2 - 20}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">members caught</text>')
    parts.append(_line([(across(t), up(t)) for t in (_LEAST, 1.0)], "var(--soft)", 1, "3 3"))
    if ceiling is not None:
        steps = [10 ** (-3 + 3 * step / 120) for step in range(121)]
        parts.append(_line([(across(x), up(ceiling(x))) for x in steps], "var(--ceiling)", 3, ""))
    legend = [("ceiling of the guarantee", "var(--ceiling)", 3, "")] if ceiling is not None else []
    for number, (name, points) in enumerate(curves.items()):
        colour, dash = f"var({_COLOURS[number % 4]})", _DASHES[number % 4]
        parts.append(_line([(across(x), up(y)) for x, y in _stairs(points)], colour, 2, dash))
        legend.append((name, colour, 2, dash))
    for row, (name, colour, width, dash) in enumerate(legend):
        x, y = _LEFT, _HEIGHT + 8 + _ROW * row
        parts.append(_line([(x, y), (x + 34, y)], colour, width, dash))
        parts.append(f'<text x="{x + 42}" y="{y + 4}">{escape(name)}</text>')
    height = _HEIGHT + 4 + _ROW * len(legend)
    return _svg("Members caught over false alarms", ", ".join(curves), height, parts)


def draw_sandwich(claim: float, lower: float | None, provable: float | None) -> str:
    """The claimed epsilon, and where one was found the lower bound and the most that could be found."""
    height, y = 96, 44
    most = 1.15 * max(claim, lower or 0.0, provable or 0.0)

    def across(value: float) -> float:
        return 20 + (_WIDTH - 40) * value / most

    parts = [f'<line class="axis" x1="20" x2="{_WIDTH - 20}" y1="{y}" y2="{y}"/>']
    if lower is not None:
        first, last = sorted((lower, claim))
        colour = "var(--bad)" if lower > claim else "var(--good)"
        parts.append(
            f'<rect x="{across(first):.1f}" y="{y - 9}" width="{across(last) - across(first):.1f}" '
            f'height="18" fill="{colour}" opacity="0.25"/>'
        )
    marks = [("claimed", claim, "var(--ink)", y + 32), ("0", 0.0, "var(--soft)", y + 32)]
    if lower is not None:
        marks.append(("shown at least", lower, "var(--c2)", y - 20))
    if provable is not None:
        marks.append(("these canaries show at most", provable, "var(--c1)", y + 48))
    for name, value, colour, row in marks:
        x = across(value)
        parts.append(_line([(x, y - 11), (x, y + 11)], colour, 3, ""))
        anchor = "start" if x < 150 else "end" if x > _WIDTH - 150 else "middle"
        text = name if name == "0" else f"{name}: {value:.3g}"
        parts.append(f'<text x="{x:.1f}" y="{row}" text-anchor="{anchor}">{escape(text)}</text>')
    said = "; ".join(f"{name} {value:.3g}" for name, value, _, _ in marks if name != "0")
    return _svg("Epsilon from two sides", said, height, parts)


def _place(value: float) -> float:
    """From 0 at 0.001 to 1 at 1."""
    return 1 + math.log10(min(1.0, max(_LEAST, value))) / 3


def _stairs(points: Points) -> list[tuple[float, float]]:
    """Right angles between the points of an empirical curve: nothing was measured between them."""
    out: list[tuple[float, float]] = []
    for x, y in points:
        if out:
            out.append((x, out[-1][1]))
        out.append((x, y))
    return out


def _line(points: Points, colour: str, width: float, dash: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _svg(title: str, description: str, height: int, parts: Sequence[str]) -> str:
    title, description, inside = escape(title), escape(description), "".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}: {description}">'
        f"<title>{title}</title><desc>{description}</desc>{inside}</svg>"
    )
