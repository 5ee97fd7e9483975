"""The generators that `generators_tried` holds against each other.

Plans, clients' trainings and the server's learning are the product's, without encryption, which changes no
number; the autoencoder (`conditional_vae`) is not in the product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import conditional_vae
import numpy as np
import prototype_stage
import torch
from bakeoff import Records
from torch import Tensor

from mosaic_secure.client.images import image_codes
from mosaic_secure.client.training import initial_classifier, train_classifier, train_local_generator
from mosaic_secure.config import load_config
from mosaic_secure.data.partition import deal
from mosaic_secure.models.encoders import encode
from mosaic_secure.plan import IMAGE_ROUNDS, RunPlan
from mosaic_secure.seeds import derive_seed
from mosaic_secure.server.class_sampler import ClassSampler
from mosaic_secure.server.image_learner import ImageLearner
from mosaic_secure.server.synthetic import draw_from_generators
from privacy.randomness import NoiseSource, reproducible_secret

PRESET = "synthetic"
_SHARES = load_config("fashion_mnist", {"preset": PRESET}).privacy.shares
SHARE = _SHARES.sampler + _SHARES.generator
"""Of mu^2, which each candidate has; in configurations of the preset the sampler's and the generator's."""
# Chosen from a few at one client of the split into equal parts, by how many images the expert calls what was
# asked for.
VAE_LATENT = 4
VAE_RATE = 1e-2  # of Adam
VAE_AVERAGE = 0.9  # decay of the average of iterates


class World:
    """One partition and one plan: what clients and server do with it, under noise that follows from a seed.

    Attributes:
        plan: with the noise that fits so many records.
        clients: positions of their records.
    """

    def __init__(self, plan: RunPlan, records: Records) -> None:
        self.plan, self.records = weaker_noise(plan, len(records.labels) / records.total), records
        config = self.plan.config
        parts = deal(records.labels, config.partition, config.client_ids, config.partition_seed)
        self.clients = dict(zip(config.client_ids, parts, strict=True))

    def noise(self, *names: str) -> NoiseSource:
        """The stream of one release."""
        return NoiseSource(reproducible_secret(self.plan.config.seed, *names), "-".join(names))

    def counts(self) -> dict[str, np.ndarray]:
        """Noised class counts [K] of each client, as it releases them."""
        made, labels = self.plan.counts, self.records.labels
        return {
            name: made.decode(
                made.release(np.zeros((len(part), 1)), labels[part], self.noise("counts", name))
            )["counts"]
            for name, part in self.clients.items()
        }

    def class_sampler(self) -> ClassSampler:
        """The sampler after its rounds, each the sum of what the clients would encrypt."""
        plan, learner, known = self.plan, ImageLearner(self.plan), self.counts()
        for wanted in plan.rounds:
            if wanted.release not in IMAGE_ROUNDS:
                continue
            told, total = learner.broadcast(wanted), 0
            for name, part in self.clients.items():
                images, labels = self.records.images[part], self.records.labels[part]
                codes = image_codes(wanted, told, images, labels, plan)
                total = total + wanted.mechanism.release(codes, labels, self.noise(wanted.round_id, name))
            learner.learn(wanted, total, list(self.clients), known)
        return ClassSampler(plan, learner.state)

    def dcgan(self, sampler: ClassSampler | None) -> list[torch.nn.Module]:
        """Each client's generator, anchored on the moments of a sampler if there is one."""
        told = {}
        if sampler is not None:
            told = dict(zip(("pixel_means", "pixel_seconds"), sampler.pooled_moments(), strict=True))
        plan, counts, made = self.plan, self.counts(), []
        config = plan.config
        for index, (name, part) in enumerate(self.clients.items()):
            images, labels = self.records.images[part], self.records.labels[part]
            names = config.clients.architectures
            architecture = names[index % len(names)]
            model = initial_classifier(config, architecture, plan.image_shape, plan.num_classes)
            train_classifier(
                model,
                torch.from_numpy(images),
                torch.from_numpy(labels),
                plan.dpsgd("classifier", len(part), architecture),
                self.noise("classifier", name),
                config.classifier.augmentations,
            )
            data = SimpleNamespace(images=images, labels=labels, declared_records=len(part))
            session = SimpleNamespace(config=config, plan=plan, data=data)
            made.append(
                train_local_generator(session, model, told, counts[name], self.noise("generator", name))
            )
        return made

    def vae(self) -> list[torch.nn.Module]:
        """The decoder of each client's autoencoder."""
        plan, made = self.plan, []
        seed = derive_seed(plan.config.seed, "vae")
        for name, part in self.clients.items():
            model = conditional_vae.build(plan.image_shape, plan.num_classes, VAE_LATENT, seed)
            conditional_vae.train(
                model,
                torch.from_numpy(self.records.images[part]),
                torch.from_numpy(self.records.labels[part]),
                dataclasses.replace(
                    plan.dpsgd("generator", len(part)),
                    learning_rate=VAE_RATE,
                    ema_decay=VAE_AVERAGE,
                ),
                self.noise("vae", name),
            )
            made.append(model.decoder)
        return made

    def drawn(self, generators: list[torch.nn.Module], number: int) -> tuple[Tensor, Tensor]:
        """Images and labels from the clients' generators, by their noised counts."""
        return draw_from_generators(
            generators, np.stack(list(self.counts().values())), number, self.plan.config.seed
        )

    def sampled(self, sampler: ClassSampler, number: int) -> tuple[Tensor, Tensor]:
        """Images of all classes alike."""
        labels = torch.arange(number) % self.plan.num_classes
        return sampler.draw(labels, self.plan.config.seed), labels


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row: settings over those of the preset, how it draws, and whether the partition matters to it."""

    settings: dict[str, str]
    draw: Callable[[World, int], tuple[Tensor, Tensor]]
    parted: bool = True


_AT_CLIENTS = {
    "sampler.enabled": "false",
    "privacy.shares.sampler": "0",
    "privacy.shares.generator": f"{SHARE:g}",
}
_SAMPLED = {
    "generator.enabled": "false",
    "privacy.shares.generator": "0",
    "privacy.shares.sampler": f"{SHARE:g}",
}

CANDIDATES: dict[str, Candidate] = {
    "class sampler": Candidate(_SAMPLED, lambda w, n: w.sampled(w.class_sampler(), n), parted=False),
    "class sampler, distributed trust": Candidate(
        _SAMPLED | {"privacy.trust": "distributed"},
        lambda w, n: w.sampled(w.class_sampler(), n),
        parted=False,
    ),
    "VAE": Candidate(_AT_CLIENTS, lambda w, n: w.drawn(w.vae(), n)),
    "DCGAN": Candidate(_AT_CLIENTS, lambda w, n: w.drawn(w.dcgan(None), n)),
    # The preset as it is: the share is split between the two.
    "DCGAN anchored on the class sampler": Candidate({}, lambda w, n: w.drawn(w.dcgan(w.class_sampler()), n)),
    "real records, no privacy": Candidate(
        {},
        lambda w, n: (torch.from_numpy(w.records.images), torch.from_numpy(w.records.labels)),
        parted=False,
    ),
}


class Expert:
    """The prototype expert of a plan, which gives the second labels.

    Attributes:
        score: its accuracy on the held-out records.
    """

    def __init__(self, plan: RunPlan, records: Records) -> None:
        self._plan, self._encoder = plan, plan.encoder()
        tried = prototype_stage.Tried()
        codes, scored = records.codes(plan, tried)
        self._state = prototype_stage.learn(
            plan, codes, records.labels, records.total, plan.config.seed, tried
        )
        found = prototype_stage.answers(plan, self._state, scored, tried).argmax(1)
        self.score = round(float((found == records.score_labels).mean()), 4)

    def labels(self, images: Tensor) -> Tensor:
        """Labels [N] of images [N, C, S, S]."""
        codes = encode(self._encoder, images.numpy())
        found = prototype_stage.answers(self._plan, self._state, codes, prototype_stage.Tried())
        return torch.from_numpy(found.argmax(1))


def weaker_noise(plan: RunPlan, factor: float) -> RunPlan:
    """The plan with every noise multiplier times `factor`: for a smaller set, not a promise."""
    releases = tuple(
        dataclasses.replace(r, noise_multiplier=r.noise_multiplier * factor) for r in plan.budget.releases
    )
    return dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, releases=releases))
