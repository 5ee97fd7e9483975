"""What each part of the server's work is worth: the same releases, assembled again without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from mosaic_secure.server.assembly import Parts, Releases, assemble
from mosaic_secure.server.experts import Memory
from mosaic_secure.server.fresh_student import SCORE

if TYPE_CHECKING:
    import numpy as np

    from mosaic_secure.plan import RunPlan

__all__ = ["worth"]


def worth(
    plan: RunPlan,
    releases: Releases,
    device: str,
    test: tuple[np.ndarray, np.ndarray] | None,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """The global model without each part in turn, from the same releases: no privacy is spent.

    Where a part decides which synthetic records there are, a fresh student tells what those are worth.

    Returns:
        Rows of part, accuracy of teacher, global model and fresh student, and the global model's change; None
        without a public test.
    """
    full = replace(Parts.of(plan), fresh_student=False)
    rows: list[dict[str, Any]] = []
    variants = {"(everything on)": full}
    for part in fields(Parts):
        if getattr(full, part.name):
            variants[part.name.replace("_", " ")] = replace(full, **{part.name: False})
    base, memory = None, Memory()
    for name, parts in variants.items():
        if not (parts.prototype_expert or parts.class_experts) or not (parts.sampler or parts.generators):
            continue
        note(f"without {name}")
        fresh = parts == full or not (parts.sampler and parts.generators)
        scored = replace(parts, fresh_student=fresh)
        scores = assemble(plan, releases, scored, device, test, memory=memory).scores
        base = scores.get("global") if base is None else base
        gain = None if base is None else round(base - scores["global"], 4)
        rows.append(
            {
                "without": name,
                "teacher": scores.get("teacher"),
                "global_model": scores.get("global"),
                "fresh_cnn": scores.get(SCORE),
                "worth": gain if parts != full else None,
            }
        )
    return rows
