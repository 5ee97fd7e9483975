"""The picture of a comparison: accuracy over epsilon, a line for each method, a panel for each alpha."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mosaic_secure.report.epsilon_axis import EpsilonAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mosaic_secure.report.comparison_table import Row

__all__ = ["draw_comparison"]

# Okabe and Ito (2008): told apart with every common kind of colour blindness.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = {"local": "-", "distributed": (0, (4, 2))}
_INCHES, _PANEL_INCHES, _DPI = 8.0, 4.6, 150
_INK, _PALE = "#333333", "#dddddd"


def draw_comparison(rows: Sequence[Row], title: str, kind: str = "png") -> bytes:
    """Draw mean accuracies (percent) and their intervals over epsilon on a log axis, 1200 pixels wide.

    An infinite epsilon stands apart at the right, joined to nothing. Series are moved sideways a little, so
    that equal values stay visible.

    Args:
        rows: at least one of them with an accuracy; rows without one are left out.
        kind: "png", or "svg" with letters as shapes, so that it looks alike everywhere.

    Returns:
        The picture.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [row for row in rows if row.accuracy is not None]
    alphas = list(dict.fromkeys(row.alpha for row in drawn if row.alpha is not None)) or [None]
    names = list(dict.fromkeys(row.name for row in drawn))
    looks = _looks(drawn, names)
    scale = EpsilonAxis(sorted({row.epsilon_target for row in drawn}), len(names))
    figure = Figure(figsize=(_INCHES, _PANEL_INCHES * len(alphas)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(alphas), 1, sharey=True, squeeze=False)[:, 0]
    for axes, alpha in zip(panels, alphas, strict=True):
        here = [row for row in drawn if row.alpha in (alpha, None)]  # None: however they are dealt
        _panel(axes, here, names, looks, scale)
        axes.set_title(title if len(alphas) == 1 else f"Dirichlet({alpha})", fontsize=11, loc="left")
        _legend(axes, here, looks)
    if len(alphas) > 1:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    panels[0].set_ylim(*_limits(drawn))
    panels[-1].set_xlabel(f"{panels[-1].get_xlabel()}\n{_caption(drawn)}", fontsize=10)
    stream = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with rc_context({"svg.hashsalt": "mosaic-secure"}):  # the same numbers give the same bytes
        figure.savefig(stream, format=kind, dpi=_DPI, metadata=metadata)
    return stream.getvalue()


def _looks(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker by method and preset, the line by trust."""
    kinds = list(dict.fromkeys((row.method, row.preset) for row in rows))
    looks = {}
    for name in names:
        row = next(row for row in rows if row.name == name)
        number = kinds.index((row.method, row.preset))
        looks[name] = {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
            "linestyle": _LINES[row.trust],
            "markerfacecolor": "white" if row.trust == "distributed" else _COLOURS[number % len(_COLOURS)],
        }
    return looks


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    names: Sequence[str],
    looks: dict[str, dict[str, Any]],
    scale: EpsilonAxis,
) -> None:
    axes.set_xscale("log")
    for number, name in enumerate(names):
        series = sorted((row for row in rows if row.name == name), key=lambda row: row.epsilon_target)
        joined = [row for row in series if math.isfinite(row.epsilon_target)]
        for part in (joined, [row for row in series if row not in joined]):
            if part:
                axes.errorbar(
                    [scale.of(row.epsilon_target, number) for row in part],
                    [100 * float(row.accuracy) for row in part],
                    yerr=_bars(part),
                    capsize=3,
                    markersize=6.5,
                    linewidth=1.6,
                    elinewidth=1.2,
                    **looks[name],
                )
    axes.set_xticks(list(scale.ticks), list(scale.ticks.values()))
    axes.minorticks_off()
    axes.set_xlim(*scale.limits)
    if scale.edge is not None:
        axes.axvline(scale.edge, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("ε (target; log axis)", fontsize=10)
    axes.set_ylabel("test accuracy, %", fontsize=10)
    axes.grid(axis="y", color=_PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(rows: Sequence[Row]) -> list[list[float]]:
    """Lengths of the bars below and above each mean; 0 where there is no interval."""
    below = [0.0 if row.low is None else 100 * (row.accuracy - row.low) for row in rows]
    above = [0.0 if row.high is None else 100 * (row.high - row.accuracy) for row in rows]
    return [below, above]


def _legend(axes: Axes, rows: Sequence[Row], looks: dict[str, dict[str, Any]]) -> None:
    """Names beside the panel, from top to bottom as the lines end at the right."""
    from matplotlib.lines import Line2D

    last = {row.name: (row.epsilon_target, row.accuracy) for row in rows}
    order = sorted(last, key=lambda name: last[name], reverse=True)
    axes.legend(
        handles=[Line2D([], [], label=name, **looks[name]) for name in order],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize=9.5,
        handlelength=2.6,
    )


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    ends = [100 * value for row in rows for value in (row.accuracy, row.low, row.high) if value is not None]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    room = max(2.0, 0.06 * (high - low))
    return max(-1.0, low - room), min(101.0, high + room)


def _caption(rows: Sequence[Row]) -> str:
    counts = {len(row.by_seed) for row in rows}
    if counts == {1}:
        return "one seed: no intervals"
    many = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    return f"mean over {many} seeds; bars: 95 % t interval across seeds"
