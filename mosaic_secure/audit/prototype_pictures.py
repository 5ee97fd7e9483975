"""Prototypes of a run as whoever holds its run directory, or stood at its server, has them.

A run directory keeps no sums. It keeps what was made of them: the centre of the codes, the linear weights of
the prototype expert, and where the run has one the sampler with the class means of images. So the sums of the
server are made again from the training records, with fresh noise of the size that the plan has: what the
server saw differs from them by its noise alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attacks.inversion.prototypes import implied_means
from mosaic_secure.data import load_client
from mosaic_secure.models.global_model import HEAD
from mosaic_secure.plan import build_plan
from mosaic_secure.runs.artefacts import INDEX, Member, fill, read_collection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mosaic_secure.config import RunConfig
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["Prototypes", "built_generator"]

EXPERTS = "experts"
BATCH = 256


class Prototypes:
    """The encoder of a run's prototypes, with the centre that the run kept, and class means of its codes.

    Attributes:
        encode: images [B, C, S, S] to centred codes [B, D], differentiable.
    """

    def __init__(self, config: RunConfig, expert: nn.Module) -> None:
        self._config, self._expert = config, expert
        self.encode = expert.trunk

    @classmethod
    def of(cls, run: RunDirectory, config: RunConfig) -> Prototypes | None:
        """None for a run that kept no prototype expert.

        Raises:
            UserError: it is damaged.
        """
        from mosaic_secure.models.registry import build_classifier

        members = read_collection(run, EXPERTS) if run.has(f"{EXPERTS}/{INDEX}") else ()
        for member in members:
            spec = member.spec
            if spec.architecture == HEAD:
                built = build_classifier(HEAD, spec.image_shape, spec.num_classes, spec.seed, **spec.options)
                where = f"{run.path}/{EXPERTS}/{member.name}.safetensors"
                return cls(config, fill(built, member.tensors, where))
        return None

    def as_summed(self, seed: int) -> Tensor:
        """Class sums [K, D] of the clients' records with noise of the planned size drawn from `seed`.

        All clients contribute, and the noise is continuous.
        """
        import torch

        plan = build_plan(self._config, self._config.data.root)
        mechanism = plan.round("moments-0").mechanism
        clients = self._config.clients.count
        sums = np.zeros((plan.num_classes, plan.code_dim))
        for client in range(clients):
            part = load_client(self._config, client, self._config.data.root)
            np.add.at(sums, part.labels, self.codes(part.images))
        noise = np.random.default_rng(seed).normal(0, mechanism.noise_std("class_sums", clients), sums.shape)
        return torch.from_numpy(sums + noise).float()

    def from_weights(self, others: np.ndarray) -> Tensor:
        """Class means [K, D], but for their length, that the weights of the prototype expert tell.

        Args:
            others: images [N, C, S, S] of the kind that nobody trained on.
        """
        import torch

        weights = self._expert.head.linear.weight.detach()
        return implied_means(weights, torch.from_numpy(self.codes(others)))

    def codes(self, images: np.ndarray) -> np.ndarray:
        """Centred codes, float32 [N, D]."""
        import torch

        with torch.no_grad():
            return torch.cat([self.encode(part) for part in torch.from_numpy(images).split(BATCH)]).numpy()


def built_generator(member: Member, where: str) -> nn.Module:
    """A generator or sampler of a run, ready to draw.

    Raises:
        UserError: it is damaged; `where` names its folder.
    """
    from mosaic_secure.models.registry import build_generator

    spec = member.spec
    module = build_generator(spec.architecture, spec.image_shape, spec.num_classes, spec.seed, **spec.options)
    return fill(module, member.tensors, f"{where}/{member.name}.safetensors")
