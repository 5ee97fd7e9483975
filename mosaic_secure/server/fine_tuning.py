"""Fine-tuning at the server: private rounds from the distilled model, averaged and checkpointed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import FineTuneReply, FineTuneRequest

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
        UserError, BudgetError, LedgerError: too few clients of a round returned usable weights.
    """
    current = dict(weights)
    for index in range(rounds):
        stage = f"fine-tune-{index}"
        found = run.load_stage(stage)
        if found is None:
            request = FineTuneRequest(run_id=run.run_id, round=index, weights=current)
            replies = roll.ask(stage, request, FineTuneReply)
            sane = _checked(roll, stage, replies, trained, current)
            mean = {
                name: np.mean([w[short] for w in sane], axis=0) for short, name in _names(trained, current)
            }
            run.save_stage(stage, mean, {"left_out": roll.left_out(stage)})
            found = (mean, {})
        current.update({name: value.astype(np.float32) for name, value in found[0].items()})
        progress(Progress("fine-tuning", index + 1, rounds))
    return current


def _checked(
    roll: Roll,
    stage: str,
    replies: Mapping[str, FineTuneReply],
    trained: tuple[str, ...],
    state: Mapping[str, np.ndarray],
) -> list[Mapping[str, np.ndarray]]:
    """Weights that can be used; the senders of others lose this round, by name."""
    good = {client: r.weights for client, r in replies.items() if _fits(r.weights, trained, state)}
    roll.leave_out(stage, {client: "malformed" for client in replies if client not in good})
    roll.need(good, roll.left_out(stage), stage)
    return list(good.values())


def _names(trained: tuple[str, ...], state: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of a trained part's name and its name in the whole model."""
    return [(n, n if n in state else f"head.{n}") for n in trained]


def _fits(
    weights: Mapping[str, np.ndarray], trained: tuple[str, ...], state: Mapping[str, np.ndarray]
) -> bool:
    return set(weights) == set(trained) and all(
        weights[short].shape == state[name].shape
        and weights[short].dtype.kind == "f"
        and bool(np.isfinite(weights[short]).all())
        for short, name in _names(trained, state)
    )
