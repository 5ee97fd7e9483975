"""DENSE at the server: one shot from the clients' classifiers to a global model, without data.

A generator is trained to make images that the ensemble D of the clients' classifiers gives the asked label,
and on which D and the global model S disagree; S learns D's answers on its images (Zhang et al., 2022,
arXiv 2112.12371, algorithm 1). D(x) is the mean of the clients' logits, here weighted by their noised counts.
Loss of the generator: CE(D(x), y) - boundary * w(x) KL(D(x) || S(x)) + balance * KL(mean of D(x) || mean of
y), w(x) being 1 where D and S name different classes, else 0. The paper's batch-normalisation term is
missing: there is no batch normalisation under DP. The balance term takes its part in keeping images apart.

All of it is post-processing of what the clients released.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mosaic_secure.client.training import initial_classifier, set_weights
from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.models.global_model import build_global_model
from mosaic_secure.models.registry import build_generator
from mosaic_secure.progress import ReadingCallback
from mosaic_secure.seeds import derive_seed, torch_generator
from mosaic_secure.server.assembly import Assembly, Releases
from mosaic_secure.server.distillation import distillation_loss, optimizer_of
from mosaic_secure.server.experts import Mixture, class_experts
from mosaic_secure.server.scoring import Further, further_scores

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan

__all__ = ["Ensemble", "SERVER_GENERATOR", "condense", "generator_loss"]

SERVER_GENERATOR = "server"
_DRAWN = 512


class Ensemble(nn.Module):
    """Mean of the logits of several classifiers.

    Args:
        members: at least one; each maps images [B, C, S, S] to logits [B, K].
        sizes: [members], their weights; what is below zero counts as zero, and all as one if none is above.
    """

    def __init__(self, members: list[nn.Module], sizes: np.ndarray) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        shares = np.maximum(sizes, 0.0)
        shares = shares if shares.sum() > 0 else np.ones_like(shares)
        self.shares: Tensor
        self.register_buffer("shares", torch.from_numpy(shares / shares.sum()).float())

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities [B, K] of images [B, C, S, S]."""
        logits = torch.stack([member(images) for member in self.members], dim=1)
        return torch.einsum("m,bmk->bk", self.shares, logits).log_softmax(-1)


def generator_loss(
    teacher: Tensor, student: Tensor, labels: Tensor, boundary: float, balance: float
) -> Tensor:
    """Loss of a batch of generated images.

    Args:
        teacher: log-probabilities [B, K] of the ensemble. student: logits [B, K] of the global model.
        labels: [B], the classes asked for.
        boundary, balance: weights of these terms.
    """
    loss = nn.functional.nll_loss(teacher, labels)
    if boundary:
        learnt = student.log_softmax(-1)
        differ = (teacher.argmax(-1) != learnt.argmax(-1)).to(teacher.dtype)
        gap = (teacher.exp() * (teacher - learnt)).sum(-1)
        loss = loss - boundary * (differ * gap).mean()
    if balance:
        mean = teacher.exp().mean(0)
        asked = nn.functional.one_hot(labels, teacher.shape[1]).to(teacher.dtype).mean(0)
        loss = loss + balance * (mean * (mean.clamp_min(1e-8) / asked.clamp_min(1e-8)).log()).sum()
    return loss


def condense(
    plan: RunPlan,
    releases: Releases,
    device: str = "cpu",
    test: tuple[np.ndarray, np.ndarray] | None = None,
    note: Callable[[str], None] = lambda _: None,
    read: ReadingCallback | None = None,
) -> Assembly:
    """Train generator and global model in turn against the ensemble.

    Args:
        test: public test images [N, C, S, S] and labels [N]; used for scores only, after all is trained.
        note: is told what is being done.
        read: is told the losses of the last step of each round.
    """
    config, distill, seed = plan.config.dense, plan.config.distill, plan.config.seed
    counts = np.stack([releases.counts[client] for client in releases.classifiers])
    ensemble = Ensemble(_classifiers(plan, releases), np.maximum(counts, 0.0).sum(1)).to(device).eval()
    ensemble.requires_grad_(False)
    generator = build_generator(
        config.architecture,
        plan.image_shape,
        plan.num_classes,
        derive_seed(seed, "dense-generator"),
        latent_dim=config.latent_dim,
    ).to(device)
    student = build_global_model(plan).to(device)
    maker = torch.optim.Adam(generator.parameters(), lr=config.learning_rate, betas=(0.5, 0.999))
    learner, schedule = optimizer_of(student, distill)
    stream = torch_generator(seed, "dense")
    images: list[Tensor] = []
    answers: list[Tensor] = []
    labels: list[Tensor] = []
    for index in range(config.rounds):
        note(f"generator and global model, round {index + 1} of {config.rounds}")
        generator.train()
        student.eval()
        for _ in range(config.generator_steps):
            latents, asked = _draws(plan, config.batch, stream, device)
            made = generator(latents, asked)
            loss = generator_loss(ensemble(made), student(made), asked, config.boundary, config.balance)
            maker.zero_grad()
            loss.backward()
            maker.step()
        if read is not None:
            read("generator/loss", index, loss.item())
        generator.eval()
        with torch.no_grad():
            for size in _parts(_share(distill.synthetic_pool, config.rounds, index)):
                latents, asked = _draws(plan, size, stream, device)
                made = generator(latents, asked)
                images.append(made)
                answers.append(ensemble(made))
                labels.append(asked)
        pool, taught = torch.cat(images), torch.cat(answers)
        student.train()
        for _ in range(_share(distill.steps, config.rounds, index)):
            rows = torch.randint(len(pool), (distill.batch,), generator=stream).to(device)
            loss = distillation_loss(student(pool[rows]), taught[rows], distill)
            learner.zero_grad()
            loss.backward()
            learner.step()
            schedule.step()
        if read is not None:
            read("distillation/loss", index, loss.item())
    student.eval().cpu()
    groups = [
        class_experts(architecture, _template(plan, architecture), [client], {client: weights}, own[None])
        for own, (client, (architecture, weights)) in zip(counts, releases.classifiers.items(), strict=True)
    ]
    facts = {"experts": len(groups), "synthetic_records": len(pool), "distilled_on": len(pool)}
    scores, further = _scores(ensemble.cpu(), list(releases.classifiers), student, test)
    made = {SERVER_GENERATOR: generator.cpu().requires_grad_(False)}
    synthetic = (pool.cpu(), torch.cat(labels).cpu())
    return Assembly(student, Mixture(tuple(groups)), made, scores, facts, synthetic, further)


def _template(plan: RunPlan, architecture: str) -> nn.Module:
    return initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)


def _classifiers(plan: RunPlan, releases: Releases) -> list[nn.Module]:
    built = []
    for architecture, weights in releases.classifiers.values():
        model = _template(plan, architecture)
        set_weights(model, weights)
        built.append(model)
    return built


def _draws(plan: RunPlan, size: int, stream: torch.Generator, device: str) -> tuple[Tensor, Tensor]:
    """Latents [B, latent_dim] and classes [B], all classes alike."""
    latents = torch.randn(size, plan.config.dense.latent_dim, generator=stream)
    asked = torch.randint(plan.num_classes, (size,), generator=stream)
    return latents.to(device), asked.to(device)


def _share(total: int, rounds: int, index: int) -> int:
    """Part of `total` for round `index`, when it is spread evenly; at least 1 in the first."""
    return -(-total * (index + 1) // rounds) + (-total * index // rounds)


def _parts(size: int) -> list[int]:
    return [min(_DRAWN, size - start) for start in range(0, size, _DRAWN)]


def _scores(
    ensemble: Ensemble, clients: list[str], student: nn.Module, test: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[str, float], Further]:
    if test is None:
        return {}, {}
    images, labels = torch.from_numpy(test[0]), torch.from_numpy(test[1])
    named = {f"experts/{c}": m for c, m in zip(clients, ensemble.members, strict=True)}
    named |= {"teacher": ensemble, "global": student}
    outputs = {name: predict_logits(model, images) for name, model in named.items()}
    scores = {name: float((found.argmax(-1) == labels).double().mean()) for name, found in outputs.items()}
    return scores, further_scores({name: outputs[name] for name in ("teacher", "global")}, test[1])
