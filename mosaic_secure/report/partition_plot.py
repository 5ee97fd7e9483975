"""The picture of who holds which labels, for public data only."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError

_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
    "#e07b39",
    "#5b4a9c",
    "#7a5c3e",
)
_HATCHES = (None, "///", "...", "xxx")
_MAX_NAMED_CLASSES = 30
_INCHES_PER_CLIENT = 0.34


def partition_picture(
    config: RunConfig, root: str | Path | None = None, path: str | Path | None = None
) -> bytes:
    """Draw the label distribution of the clients of a run.

    Args:
        config: the run; its data must be public.
        root: folder of the data.
        path: where to write the picture as well, if anywhere.

    Returns:
        The picture as PNG.

    Raises:
        UserError: the data are private; exact label counts of private data are drawn nowhere.
    """
    if not config.is_public:
        raise UserError(
            "label counts of private data are not drawn: only released, noised counts may be shown"
        )
    from mosaic_secure.data import data_info, label_counts

    info = data_info(config.data, root)
    rule = config.partition
    detail = f"Dirichlet({rule.alpha:g})" if rule.kind == "dirichlet" else rule.kind
    title = f"{info.name}: records by client and class, {detail}, seed {config.partition_seed}"
    return draw_label_counts(label_counts(config, root), info.class_names, config.client_ids, title, path)


def draw_label_counts(
    counts: np.ndarray,
    class_names: Sequence[str],
    client_names: Sequence[str],
    title: str = "Records by client and class",
    path: str | Path | None = None,
) -> bytes:
    """Draw one stacked bar a client, its length in records, its colours the classes.

    Args:
        counts: [clients, classes], 0 or more; exact counts of public data, or released ones.
        class_names: one a class.
        client_names: one a client.
        title: above the bars.
        path: where to write the picture as well, if anywhere.

    Returns:
        The picture as PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = np.asarray(counts, dtype=float)
    clients, classes = counts.shape
    figure = Figure(figsize=(8.5, 1.6 + max(4, clients) * _INCHES_PER_CLIENT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = np.arange(clients)
    left = np.zeros(clients)
    handles = []
    for number, name in enumerate(class_names):
        look = {
            "facecolor": _COLOURS[number % len(_COLOURS)],
            "hatch": _HATCHES[number // len(_COLOURS) % len(_HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.6,
        }
        right = left + counts[:, number]
        held = np.flatnonzero(right > left)
        x = np.stack([left, right, right, left], axis=1)
        y = rows[:, None] + np.array([-0.39, -0.39, 0.39, 0.39])
        axes.add_collection(PolyCollection(np.stack([x, y], axis=2)[held], **look))
        handles.append(Patch(label=name, **look))
        left = right
    for row, total in enumerate(left):
        axes.annotate(f" {total:,.0f}", (total, row), va="center", fontsize=8, color="#333333")
    axes.set_yticks(rows, client_names, fontsize=8 if clients <= 40 else 5)
    axes.set_ylim(clients - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, left.max()) * 1.1)
    axes.set_xlabel("records")
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(
        handles=handles[:_MAX_NAMED_CLASSES],
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        ncols=1 + (min(classes, _MAX_NAMED_CLASSES) - 1) // 15,
    )
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    picture = stream.getvalue()
    if path is not None:
        Path(path).write_bytes(picture)
    return picture
