"""Rounds of the global model at the server: private training at the clients, averaged and checkpointed.

They refine the distilled model, or are the whole method: FedAvg (arXiv 1602.05629, algorithm 1) and FedProx
weigh clients by their sizes, which here are their noised counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import FineTuneReply, FineTuneRequest
from mosaic_secure.server.counts import usable_counts

if TYPE_CHECKING:
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.roll import Roll

__all__ = ["fine_tune"]

_COUNTS = "counts/"


def fine_tune(
    run: RunDirectory,
    roll: Roll,
    progress: ProgressCallback,
    rounds: int,
    weights: Mapping[str, np.ndarray],
    trained: tuple[str, ...],
    num_classes: int,
) -> dict[str, np.ndarray]:
    """The global model's state after the private rounds.

    Clients that send noised counts in the first round are weighted by them from then on, and those that send
    none that can be used by nothing; where nobody sends any, all count alike.

    Args:
        rounds: how many; a round whose checkpoint is found is not asked for again.
        weights: the state before them.
        trained: names of what clients send back.

    Raises:
        UserError, BudgetError, LedgerError: too few clients of a round returned usable weights.
    """
    current = dict(weights)
    sizes: dict[str, float] = {}
    for index in range(rounds):
        stage = f"fine-tune-{index}"
        found = run.load_stage(stage)
        if found is None:
            request = FineTuneRequest(run_id=run.run_id, round=index, weights=current)
            replies = roll.ask(stage, request, FineTuneReply)
            sane = _checked(roll, stage, replies, trained, current)
            counts: dict[str, np.ndarray] = {}
            if index == 0:
                counts = usable_counts({c: r.counts for c, r in replies.items()}, num_classes)
                sizes = _sizes(counts)
            arrays = _mean(sane, sizes, _names(trained, current))
            arrays |= {f"{_COUNTS}{client}": value for client, value in counts.items()}
            run.save_stage(stage, arrays, {"left_out": roll.left_out(stage)})
        else:
            arrays = found[0]
            if index == 0:
                kept = {n.removeprefix(_COUNTS): a for n, a in arrays.items() if n.startswith(_COUNTS)}
                sizes = _sizes(kept)
        current.update({name: arrays[name].astype(np.float32) for _, name in _names(trained, current)})
        progress(Progress("global rounds", index + 1, rounds))
    return current


def _sizes(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {client: max(0.0, float(value.sum())) for client, value in counts.items()}


def _mean(
    sane: Mapping[str, Mapping[str, np.ndarray]], sizes: Mapping[str, float], names: list[tuple[str, str]]
) -> dict[str, np.ndarray]:
    """Weighted by size; plainly where no size of those that are here is above 0."""
    shares = np.array([sizes.get(client, 0.0) for client in sane])
    if shares.sum() <= 0:
        return {name: np.mean([w[short] for w in sane.values()], axis=0) for short, name in names}
    return {
        name: np.average([w[short] for w in sane.values()], axis=0, weights=shares) for short, name in names
    }


def _checked(
    roll: Roll,
    stage: str,
    replies: Mapping[str, FineTuneReply],
    trained: tuple[str, ...],
    state: Mapping[str, np.ndarray],
) -> dict[str, Mapping[str, np.ndarray]]:
    """Weights that can be used, by client; the senders of others lose this round, by name."""
    good = {client: r.weights for client, r in replies.items() if _fits(r.weights, trained, state)}
    roll.leave_out(stage, {client: "malformed" for client in replies if client not in good})
    roll.need(good, roll.left_out(stage), stage)
    return good


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
