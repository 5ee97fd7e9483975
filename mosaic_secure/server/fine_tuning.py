"""Fine-tuning at the server: private rounds from the distilled model, averaged and checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import FineTuneReply, FineTuneRequest
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.roll import Roll

__all__ = ["fine_tune"]


def fine_tune(
    run: RunDirectory,
    roll: Roll,
    progress: ProgressCallback,
    rounds: int,
    weights: Mapping[str, np.ndarray],
    trained: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """The global model's state after the private rounds.

    Args:
        rounds: how many; a round whose checkpoint is found is not asked for again.
        weights: the state before them.
        trained: names of what clients send back.

    Raises:
        PrivacyError: no client of a round returned usable weights, or too few answered.
        UserError: too few answered.
    """
    current = dict(weights)
    for index in range(rounds):
        stage = f"fine-tune-{index}"
        found = run.load_stage(stage)
        if found is None:
            request = FineTuneRequest(run_id=run.run_id, round=index, weights=current)
            replies = roll.ask(stage, request, FineTuneReply)
            sane = [r.weights for r in replies.values() if _fits(r.weights, trained, current)]
            if not sane:
                raise PrivacyError(f"{stage}: no client returned usable weights")
            mean = {
                name: np.mean([w[short] for w in sane], axis=0) for short, name in _names(trained, current)
            }
            run.save_stage(stage, mean, {"clients": len(sane)})
            found = (mean, {})
        current.update({name: value.astype(np.float32) for name, value in found[0].items()})
        progress(Progress("fine-tuning", index + 1, rounds))
    return current


def _names(trained: tuple[str, ...], state: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of a trained part's name and its name in the whole model."""
    return [(n, n if n in state else f"head.{n}") for n in trained]


def _fits(
    weights: Mapping[str, np.ndarray], trained: tuple[str, ...], state: Mapping[str, np.ndarray]
) -> bool:
    return set(weights) == set(trained) and all(
        weights[short].shape == state[name].shape and bool(np.isfinite(weights[short]).all())
        for short, name in _names(trained, state)
    )
