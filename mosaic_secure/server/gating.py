"""The meta gate: a small attention model that says which expert to trust on which record.

Each expert's answer becomes a token that carries the expert's identity; tokens attend to each other, and each
gets a score and a sharpness. The teacher's answer is the log-linear pool of the experts under the scores.
The gate learns from labelled synthetic records, the class prototypes (mean images) among them, and from
nothing else (Mosaic, arXiv 2505.19699, stage 5; the identities are ours: without them no gate can tell
experts apart). The teacher is the exponential moving average of the gate's iterates, as in the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mosaic_secure.models.seeding import build_seeded
from mosaic_secure.progress import READ_EVERY, ReadingCallback
from mosaic_secure.seeds import derive_seed, torch_generator

if TYPE_CHECKING:
    from mosaic_secure.config import GateConfig

__all__ = ["Gate", "departure", "pool", "starting_scores", "train_gate"]

_FLOOR = -12.0  # log-probabilities are cut here: one sure expert must not veto all the others


class Gate(nn.Module):
    """Attention over the answers of `experts` experts on `classes` classes.

    Args:
        dim, heads: width and heads of the attention.
        prior: [experts], scores to start from.
    """

    def __init__(self, experts: int, classes: int, dim: int, heads: int, prior: Tensor) -> None:
        super().__init__()
        self.read = nn.Linear(classes, dim)
        self.identity = nn.Parameter(0.1 * torch.randn(experts, dim))
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.score = nn.Linear(dim, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.prior = nn.Parameter(prior.clone())
        self.sharpness = nn.Parameter(torch.zeros(experts))

    def trust(self, answers: Tensor) -> Tensor:
        """Weights [B, E] of the experts, from their log-probabilities [B, E, K]; each row sums to one."""
        tokens = self.read(answers.exp()) + self.identity
        attended, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return (self.score(self.norm(tokens + attended)).squeeze(-1) + self.prior).softmax(-1)

    def forward(self, answers: Tensor) -> Tensor:
        """Log-probabilities [B, K] of the gated teacher, from the experts' [B, E, K]."""
        sharpened = answers.clamp_min(_FLOOR) * self.sharpness.exp()[:, None]
        return torch.einsum("be,bek->bk", self.trust(answers), sharpened).log_softmax(-1)


def pool(answers: Tensor, scores: Tensor | None = None) -> Tensor:
    """Log-linear pool [B, K] of the answers [B, E, K] under the trust softmax(scores), or even trust."""
    answers = answers.clamp_min(_FLOOR)
    if scores is None:
        return answers.mean(1).log_softmax(-1)
    return torch.einsum("e,bek->bk", scores.softmax(-1), answers).log_softmax(-1)


def starting_scores(names: Sequence[str], favourite: str, trust: float) -> Tensor:
    """Scores [E] whose softmax gives `trust` to the expert `favourite`, the rest evenly to the others.

    Without an expert of that name all start alike.
    """
    scores = torch.zeros(len(names))
    if favourite in names and len(names) > 1:
        scores[list(names).index(favourite)] = math.log(trust / (1.0 - trust)) + math.log(len(names) - 1)
    return scores


def departure(trust: Tensor, prior: Tensor) -> Tensor:
    """Mean KL divergence of the prior trust softmax(prior) [E] from the trust [B, E] that the gate gives."""
    start = prior.log_softmax(-1)
    return (start.exp() * (start - trust.clamp_min(1e-12).log())).sum(-1).mean()


def train_gate(
    answers: Tensor,
    labels: Tensor,
    prior: Tensor,
    config: GateConfig,
    seed: int,
    device: torch.device | str = "cpu",
    read: ReadingCallback | None = None,
) -> Gate:
    """Fit a gate on `device`; returns the exponential moving average of its iterates, on the CPU.

    Args:
        answers: [N, E, K], log-probabilities of the experts on labelled synthetic records.
        labels: [N], the classes that these records were drawn for.
        prior: [E], scores to start from.
        read: is told the loss every now and then.
    """
    _, experts, classes = answers.shape

    def fresh() -> Gate:
        return Gate(experts, classes, config.dim, config.heads, prior)

    gate = build_seeded(fresh, derive_seed(seed, "gate")).to(device)
    answers, labels, prior = answers.to(device), labels.to(device), prior.to(device)
    average = torch.optim.swa_utils.AveragedModel(
        gate, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay)
    )
    optimizer = torch.optim.Adam(gate.parameters(), lr=config.learning_rate)
    stream = torch_generator(seed, "gate-batches")
    gate.train()
    for step in range(config.steps):
        rows = torch.randint(len(answers), (min(config.batch, len(answers)),), generator=stream).to(device)
        loss = nn.functional.nll_loss(gate(answers[rows]), labels[rows])
        # Synthetic records are easier than real ones: leaving the prior must pay for itself.
        loss = loss + config.caution * departure(gate.trust(answers[rows]), prior)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(gate)
        if read is not None and step % READ_EVERY == 0:
            read("gate/loss", step, loss.item())
    return average.module.eval().cpu()
