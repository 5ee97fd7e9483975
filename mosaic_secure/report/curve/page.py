"""The page of a curve: one file that needs nothing else, for those who decide how much privacy to buy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attacks.statistics import tpr_ceiling
from mosaic_secure import __version__
from mosaic_secure.config import config_hash
from mosaic_secure.report.curve.cost import FALSE_ALARMS
from mosaic_secure.report.curve.drawings import Mark, Scale, Series, draw_bars, draw_over_epsilon
from mosaic_secure.report.curve.gather import Curve
from mosaic_secure.report.curve.point import Mean, Point, mean_of
from mosaic_secure.report.curve.published import Published, published
from mosaic_secure.report.curve.sentences import EXTREMES, Spread, extreme, guarantee_of, what_to_see
from mosaic_secure.report.pages import percent, render

__all__ = ["curve_page"]

MOSAIC = "mosaic"
_FEWEST, _MOST = 0.001, 1.0  # of members caught, as the picture shows them
_MOST_LINES = 8


def curve_page(curve: Curve, command: str, when: str) -> str:
    """HTML of one curve.

    Args:
        command: what makes it again. when: UTC, to the minute.
    """
    from markupsafe import Markup

    anchors = published(curve.config.data.dataset)
    pictures = {
        "accuracy": _accuracy(curve, anchors),
        "attacks": _attacks(curve),
        "bounds": _bounds(curve),
        "classes": _spread(curve, "by class", _class_values),
        "clients": _spread(curve, "by client", _client_values),
        "calibration": _calibration(curve),
        "budget": _budget(curve),
        "ablation": _ablation(curve),
    }
    return render(
        "curve.html",
        curve=curve,
        pictures={name: Markup(drawn) if drawn else "" for name, drawn in pictures.items()},
        see=what_to_see(curve, _class_values, _client_values),
        anchors=anchors,
        rows=_rows(curve),
        classes=list(dict.fromkeys(name for point in curve.points for name in point.by_class)),
        clients=_clients(curve),
        audited=any(point.audits for point in curve.points),
        tested=any(point.lower_bounds for point in curve.points),
        scored=any(point.scores for point in curve.points),
        headline=_headline(curve),
        facts=guarantee_of(curve),
        extremes={"class": _extremes(curve, _class_values), "client": _extremes(curve, _client_values)},
        exposed=None if curve.looking.public else curve.looking.ceiling,
        distributed=curve.config.privacy.trust == "distributed",
        audits=sum(len(point.audits) for point in curve.points),
        epsilon=_epsilon,
        ceiling_of=lambda point: "nothing" if point.ceiling >= 1 else percent(point.ceiling),
        false_alarms=FALSE_ALARMS,
        command=command,
        when=when,
        version=__version__,
        config_hash=config_hash(curve.config),
    )


def _epsilon(value: float) -> str:
    return "∞ (no noise)" if math.isinf(value) else f"{value:g}"


def _rows(curve: Curve) -> list[tuple[str, Point]]:
    own = [(MOSAIC, point) for point in curve.points]
    return own + [(name, point) for name, points in curve.baselines.items() for point in points]


def _headline(curve: Curve) -> str:
    """What privacy costs at the point shown, in one sentence."""
    point, ceiling = curve.shown, next((p for p in curve.points if not p.promises), None)
    if point is None or point.accuracy is None or not point.promises:
        return ""
    said = f"At epsilon {point.epsilon:g} Mosaic reaches {_with_interval(point.accuracy)}"
    if ceiling is not None and ceiling.accuracy is not None:
        said += f"; the same pipeline without noise, {_with_interval(ceiling.accuracy)}"
    return said + "."


def _with_interval(mean: Mean) -> str:
    if mean.interval is None:
        return f"{percent(mean.value)} (one run: no interval)"
    return f"{percent(mean.value)} [{percent(mean.interval[0])} to {percent(mean.interval[1])}]"


def _mark(epsilon: float, mean: Mean, *more: str) -> Mark:
    return Mark(epsilon, mean.value, mean.interval, (_with_interval(mean), *more))


def _accuracy(curve: Curve, anchors: Sequence[Published]) -> str:
    named = {MOSAIC: curve.points, **curve.baselines}
    series = [
        Series(name, [_mark(p.epsilon, p.accuracy, *_runs(p)) for p in points if p.accuracy is not None])
        for name, points in named.items()
    ]
    series = [one for one in series if one.marks]
    if not series:
        return ""
    if anchors:
        told = [Mark(a.epsilon, a.accuracy, None, (f"{a.name}: {percent(a.accuracy)}",)) for a in anchors]
        series.append(Series("published, in another setting", told, joined=False, plain=True))
    return draw_over_epsilon("Accuracy over epsilon", _scale("test accuracy", series), series)


def _runs(point: Point) -> list[str]:
    return _each(point.row.by_seed)


def _each(values: Mapping[int, float]) -> list[str]:
    """A line for each run, as many as a small panel holds."""
    lines = [f"seed {seed}: {percent(value)}" for seed, value in sorted(values.items())]
    rest = len(lines) - _MOST_LINES
    return lines if rest <= 0 else [*lines[:_MOST_LINES], f"and {rest} more, in the table"]


def _scale(name: str, series: Sequence[Series]) -> Scale:
    values = [value for one in series for mark in one.marks for value in (mark.value, *(mark.interval or ()))]
    return Scale.percent(name, values)


def _attacks(curve: Curve) -> str:
    """What attacks caught below what the guarantee allows; without an audit the ceilings alone."""
    finite = [point for point in curve.points if point.promises]
    if not finite:
        return ""
    series = [
        Series(
            "most that the guarantee allows",
            [Mark(p.epsilon, p.ceiling, None, (f"at most {percent(p.ceiling)}",)) for p in curve.points],
            joined=False,
            plain=True,
        )
    ]
    for name in dict.fromkeys(name for point in curve.points for name in point.caught):
        marks = [
            _mark(
                p.epsilon,
                Mean(p.caught[name].rate, (p.caught[name].low, p.caught[name].high)),
                *_each(
                    {s: found.attacks[name].rate for s, found in p.audits.items() if name in found.attacks}
                ),
            )
            for p in curve.points
            if name in p.caught
        ]
        series.append(Series(name, marks))
    low, high, delta = math.log(finite[0].epsilon), math.log(finite[-1].epsilon), finite[0].row.delta
    steps = [math.exp(low + (high - low) * step / 60) for step in range(61)]
    ceiling = [(epsilon, tpr_ceiling(epsilon, delta, FALSE_ALARMS)) for epsilon in steps]
    ticks = {share: percent(share) for share in (0.001, 0.01, 0.1, 1.0)}
    scale = Scale("members caught at 1 % false alarms", ticks, _FEWEST, _MOST, logarithmic=True)
    lines = {"ceiling of the guarantee": ceiling}
    return draw_over_epsilon("Members caught over epsilon", scale, series, lines)


def _bounds(curve: Curve) -> str:
    """Lower bounds of the audits against what was claimed, run by run."""
    finite = [point for point in curve.points if point.promises]
    shown = [
        Mark(point.epsilon, bound, None, (f"seed {seed}: shown at least {bound:.3g}",))
        for point in finite
        for seed, (bound, _) in point.lower_bounds.items()
    ]
    if not shown:
        return ""
    could = [
        Mark(point.epsilon, most, None, (f"seed {seed}: could have shown {most:.3g}",))
        for point in finite
        for seed, (_, most) in point.lower_bounds.items()
    ]
    claims = [(point.epsilon, point.row.epsilon_spent) for point in finite]
    series = [
        Series("shown at least, each run", shown, joined=False),
        Series("most that so many canaries could show", could, joined=False, plain=True),
    ]
    most = 1.1 * max(value for _, value in claims + [(0, mark.value) for mark in shown + could])
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if most / s <= 8), most / 8)
    ticks = {step * n: f"{step * n:g}" for n in range(int(most / step) + 1)}
    scale = Scale("epsilon", ticks, 0.0, most)
    return draw_over_epsilon("Epsilon from below", scale, series, {"claimed": claims})


def _class_values(point: Point) -> dict[int, list[float]]:
    return {
        seed: [share for share in found.by_class.values() if share is not None]
        for seed, found in point.scores.items()
    }


def _client_values(point: Point) -> dict[int, list[float]]:
    return {seed: list(found.values()) for seed, found in point.by_client.items()}


def _spread(curve: Curve, name: str, values: Spread) -> str:
    """Worst, median and best of many over epsilon, each in the mean over seeds."""
    series = []
    for kind in EXTREMES:
        found = [(point, extreme(values(point), kind)) for point in curve.points]
        marks = [_mark(p.epsilon, mean_of(list(by.values())), *_each(by)) for p, by in found if by]
        series.append(Series(kind, marks))
    if not any(one.marks for one in series):
        return ""
    return draw_over_epsilon(f"Accuracy {name} over epsilon", _scale(f"accuracy {name}", series), series)


def _extremes(curve: Curve, values: Spread) -> dict[str, dict[float, Mean]]:
    """Worst, median and best -> epsilon -> what the picture shows."""
    return {
        kind: {
            point.epsilon: mean_of(list(by.values()))
            for point in curve.points
            if (by := extreme(values(point), kind))
        }
        for kind in EXTREMES
    }


def _clients(curve: Curve) -> list[dict[str, Any]]:
    """Rows of the table by client: each seed deals the records anew."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for point in curve.points:
        for seed, found in point.by_client.items():
            for client, value in found.items():
                held = point.scores[seed].holds[client]
                names = list(point.scores[seed].by_class)
                largest = sorted(range(len(held)), key=lambda k: -held[k])[:3]
                row = rows.setdefault(
                    (seed, client),
                    {
                        "seed": seed,
                        "client": client,
                        "records": sum(held),
                        "mostly": ", ".join(names[k] for k in largest if held[k]),
                        "by_epsilon": {},
                    },
                )
                row["by_epsilon"][point.epsilon] = value
    return [rows[key] for key in sorted(rows)]


def _calibration(curve: Curve) -> str:
    marks = [
        _mark(point.epsilon, point.ece, *_each({seed: found.ece for seed, found in point.scores.items()}))
        for point in curve.points
        if point.ece is not None
    ]
    if not marks:
        return ""
    series = [Series(MOSAIC, marks)]
    return draw_over_epsilon("Calibration error over epsilon", _scale("calibration error", series), series)


def _budget(curve: Curve) -> str:
    if curve.shown is None or not curve.shown.mechanisms:
        return ""
    rows = [
        (str(row["name"]), float(row["share_of_mu_squared"]), percent(row["share_of_mu_squared"]))
        for row in curve.shown.mechanisms
    ]
    return draw_bars("Shares of the budget", rows)


def _ablation(curve: Curve) -> str:
    parts: Sequence[Mapping[str, Any]] = [row for row in curve.ablation if row["worth"] is not None]
    if not parts:
        return ""
    rows = [(str(row["without"]), float(row["worth"]), f"{100 * row['worth']:+.1f} points") for row in parts]
    return draw_bars("What each part is worth", rows)
