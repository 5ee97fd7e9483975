"""What to see in each picture of a curve, in one sentence of its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from mosaic_secure.report.curve.gather import Curve
from mosaic_secure.report.curve.point import Point, mean_of
from mosaic_secure.report.pages import percent, short, upper

__all__ = ["EXTREMES", "Spread", "extreme", "guarantee_of", "what_to_see"]

Spread = Callable[[Point], Mapping[int, Sequence[float]]]
EXTREMES: Mapping[str, Callable[[Sequence[float]], float]] = {"worst": min, "median": median, "best": max}


def extreme(values: Mapping[int, Sequence[float]], kind: str) -> dict[int, float]:
    """Seed -> the worst, median or best of its values."""
    return {seed: EXTREMES[kind](shares) for seed, shares in values.items() if shares}


def guarantee_of(curve: Curve) -> list[tuple[str, str]]:
    """What stands behind an epsilon of this page: name and fact, from the statement of the point shown."""
    stated, privacy = curve.statement, curve.config.privacy
    if not stated:
        return []
    trust = privacy.trust + ("; baselines: local" if privacy.trust != "local" else "")
    noise = "from the system's cryptographically strong generator"
    if privacy.insecure_reproducible_noise:
        noise = "follows from the seed: it protects nobody"
    facts = [
        (f"in words, at epsilon {float(stated['target_epsilon']):g}", stated["guarantee"]),
        ("unit", f"{stated['unit']}; neighbours: {stated['neighbours']}"),
        ("delta, of each run", short(stated["delta"])),
        ("trust", trust),
        ("noise", noise),
        ("preset", curve.config.preset or "accuracy"),
    ]
    several = [row for row in stated["records_of_one_person"] if row["records"] > 1 and curve.shown]
    if several and curve.shown is not None and curve.shown.promises:
        told = ", ".join(f"{upper(row['epsilon'])} for {row['records']}" for row in several)
        facts.append(
            (f"a person with several records, at epsilon {curve.shown.epsilon:g}", f"epsilon {told}")
        )
    return facts


def what_to_see(curve: Curve, by_class: Spread, by_client: Spread) -> dict[str, str]:
    """Picture -> sentence; empty where there is nothing to see.

    Args:
        by_class, by_client: seed -> shares recognised, of a point.
    """
    finite = [point for point in curve.points if point.promises]
    free = next((point for point in curve.points if not point.promises), None)
    return {
        "accuracy": _accuracy(finite, free),
        "attacks": _attacks(finite, curve.looking.public),
        "bounds": _bounds(finite),
        "classes": _spread(finite, free, "class", by_class),
        "clients": _spread(finite, free, "client", by_client),
        "calibration": _calibration(finite, free),
        "budget": _largest(curve),
        "ablation": _ablation(curve),
    }


def _accuracy(finite: Sequence[Point], free: Point | None) -> str:
    known = [(point.epsilon, point.accuracy.value) for point in finite if point.accuracy is not None]
    if not known:
        return ""
    if free is None or free.accuracy is None:
        (low, first), (high, last) = known[0], known[-1]
        if low == high:
            return f"At epsilon {low:g} it is {percent(first)}."
        return f"From epsilon {low:g} to {high:g} the mean goes from {percent(first)} to {percent(last)}."
    ceiling = free.accuracy.value
    lost = ", ".join(f"{_points(ceiling - value)} at epsilon {epsilon:g}" for epsilon, value in known)
    return f"Against the same pipeline without noise, privacy costs {lost}."


def _attacks(finite: Sequence[Point], public: bool) -> str:
    if not finite:
        return ""
    last = finite[-1]
    seen = "" if public else " that sees one run alone"
    most = f"no attack{seen} can pass {percent(last.ceiling)}"
    if last.ceiling >= 1:
        most = "the guarantee limits nothing"
    if last.strongest is None:
        return f"At epsilon {last.epsilon:g} {most}."
    name, caught = last.strongest
    return f"At epsilon {last.epsilon:g} {most}; the best of ours ({name}) caught {percent(caught.rate)}."


def _bounds(finite: Sequence[Point]) -> str:
    shown = [(bound, point) for point in finite for bound, _ in point.lower_bounds.values()]
    if not shown:
        return ""
    bound, point = max(shown, key=lambda pair: pair[0])
    return f"The most that was shown is {short(bound)}, where epsilon {point.epsilon:g} is claimed."


def _spread(finite: Sequence[Point], free: Point | None, what: str, values: Spread) -> str:
    told = [(point.epsilon, list(values(point).values())) for point in finite]
    told = [(epsilon, [shares for shares in found if shares]) for epsilon, found in told]
    told = [(epsilon, found) for epsilon, found in told if found]
    if not told:
        return ""
    gaps = [
        f"{_points(mean_of([max(shares) - min(shares) for shares in found]).value)} at epsilon {epsilon:g}"
        for epsilon, found in (told if len(told) == 1 else (told[0], told[-1]))
    ]
    before = [] if free is None else [shares for shares in values(free).values() if shares]
    if before:
        gap = mean_of([max(shares) - min(shares) for shares in before]).value
        gaps.append(f"{_points(gap)} without noise")
    return f"Between the best and the worst {what} lie {', '.join(gaps)}."


def _calibration(finite: Sequence[Point], free: Point | None) -> str:
    known = [(f"{point.epsilon:g}", point.ece.value) for point in finite if point.ece is not None]
    if free is not None and free.ece is not None:
        known.append(("∞", free.ece.value))
    if not known:
        return ""
    epsilon, most = max(known, key=lambda pair: pair[1])
    return f"Confidence and accuracy lie furthest apart at epsilon {epsilon}: {percent(most)} in the mean."


def _largest(curve: Curve) -> str:
    rows: Sequence[Mapping[str, Any]] = curve.shown.mechanisms if curve.shown is not None else ()
    if not rows:
        return ""
    row = max(rows, key=lambda row: row["share_of_mu_squared"])
    return f"Most of it, {percent(row['share_of_mu_squared'])}, goes to {row['name']}."


def _ablation(curve: Curve) -> str:
    rows = [row for row in curve.ablation if row["worth"] is not None]
    if not rows:
        return ""
    row = max(rows, key=lambda row: row["worth"])
    return f"Without {row['without']} the global model loses most: {_points(row['worth'])}."


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
