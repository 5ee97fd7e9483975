"""Rounds of the global model at the server: private training at the clients, averaged and checkpointed.

They refine the distilled model, or are the whole method: FedAvg (arXiv 1602.05629, algorithm 1) and FedProx
weigh clients by their sizes, which here are their noised counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.protocol.messages import FineTuneReply, FineTuneRequest
from mosaic_secure.server.averages import RunningMean
from mosaic_secure.server.contributions import in_parts
from mosaic_secure.server.counted import counts_in, named_counts
from mosaic_secure.server.inspection import ExpectedModels, counts_fault, most_bytes

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory
    from mosaic_secure.server.roll import Roll

__all__ = ["fine_tune"]


def fine_tune(
    run: RunDirectory,
    plan: RunPlan,
    roll: Roll,
    progress: ProgressCallback,
    weights: Mapping[str, np.ndarray],
    trained: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """The global model's state after the private rounds of the plan.

    Clients that send noised counts in the first round are weighted by them from then on, and those that were
    left out of it by nothing; where nobody sends any, all count alike. A round whose checkpoint is found is
    not asked for again.

    Args:
        weights: the state before them.
        trained: names of what clients send back.

    Raises:
        UserError, BudgetError, LedgerError: too few clients of a round returned usable weights.
    """
    current, rounds = dict(weights), plan.config.fine_tune.rounds
    expected = ExpectedModels(plan)
    sizes: dict[str, float] = {}
    for index in range(rounds):
        stage = f"fine-tune-{index}"
        found = run.load_stage(stage)
        if found is None:
            request = FineTuneRequest(run_id=run.run_id, round=index, weights=current)
            arrays, clients = _round(plan, roll, request, trained, expected, sizes)
            run.save_stage(stage, arrays, {"left_out": roll.left_out(stage), "clients": clients})
        else:
            arrays = found[0]
            sizes.update((client, _size(counts)) for client, counts in counts_in(arrays).items())
        current.update({name: arrays[name].astype(np.float32) for _, name in _names(trained, current)})
        progress(Progress("global rounds", index + 1, rounds))
    return current


def _round(
    plan: RunPlan,
    roll: Roll,
    request: FineTuneRequest,
    trained: tuple[str, ...],
    expected: ExpectedModels,
    sizes: dict[str, float],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The mean of one round, by names in the whole model, and in the first round counts by client; and the
    clients in it.

    Args:
        sizes: client -> weight in the mean; filled in the first round.
    """
    stage, counted = f"fine-tune-{request.round}", request.round == 0 and plan.config.method != "mosaic"
    start = {short: request.weights[name] for short, name in _names(trained, request.weights)}
    places = plan.config.places
    mean, counts, refused = RunningMean(), {}, {}
    taken: list[str] = []

    def ask(part: Sequence[str]) -> None:  # a function, so that no reply outlives it
        good, bad = roll.answers(stage, {client: request for client in part}, FineTuneReply)
        for client, reply in good.items():
            fault = counts_fault(reply.counts, plan, places[client], wanted=counted)
            if fault := fault or expected.tuned_fault(reply.weights, places[client], start):
                bad[client] = fault
                continue
            if reply.counts:
                counts[client] = reply.counts["counts"]
                sizes[client] = _size(reply.counts["counts"])
            mean.add({short: reply.weights[short] for short in start}, sizes.get(client, 0.0))
            taken.append(client)
        roll.leave_out(stage, bad)
        refused.update(bad)

    sent = sum(array.nbytes for array in request.weights.values())
    for part in in_parts(roll.clients, sent + most_bytes(plan)[FineTuneReply]):
        ask(part)
    roll.need(taken, refused, stage)
    found = mean.mean()
    return {name: found[short] for short, name in _names(trained, request.weights)} | named_counts(
        counts
    ), taken


def _size(counts: np.ndarray) -> float:
    return max(0.0, float(counts.sum()))


def _names(trained: tuple[str, ...], state: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of a trained part's name and its name in the whole model."""
    return [(n, n if n in state else f"head.{n}") for n in trained]
