"""LiRA and RMIA on the clients' classifiers, which the server has in the clear, with shadow models of each.

A shadow model starts from the same public weights as the client's classifier and is trained by DP-SGD with
the numbers of the same plan, on a random half of the client's records and as many others. So it is known of
each shadow model which records it has seen, and what a classifier says about a record can be compared with
what models say that have seen it, and models that have not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.membership.attempts import attempts
from attacks.membership.scores import Signals, logit_confidence
from attacks.summary import Summary, summarise
from mosaic_secure.audit.records import check_membership, pair_by_class
from mosaic_secure.data import load_client, load_public_test
from mosaic_secure.errors import UserError
from mosaic_secure.plan import build_plan
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.runs.artefacts import CLASSIFIERS, fill, read_collection
from mosaic_secure.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from attacks.membership.shadows import Recipe
    from mosaic_secure.config import RunConfig
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.artefacts import Member
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["ClassifierAttack", "attack_classifiers"]

FEWEST_MODELS = 4


@dataclass(frozen=True)
class ClassifierAttack:
    """What shadow models make of one client's classifier.

    Attributes:
        client, architecture: of the classifier.
        models: shadow models. views: of each record that were asked about.
        pool: records of which each shadow model saw a random half.
        differs: how shadow models differ from the classifier beside their records and noise; empty where they
            do not.
        attacks: attack -> what its scores amount to. Members and others have equally many records of each
            class.
    """

    client: str
    architecture: str
    models: int
    views: int
    pool: int
    differs: tuple[str, ...]
    attacks: Mapping[str, Summary]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "client": self.client,
            "architecture": self.architecture,
            "models": self.models,
            "views": self.views,
            "pool": self.pool,
            "differs": list(self.differs),
            "attacks": {name: found.to_dict() for name, found in self.attacks.items()},
        }


def attack_classifiers(
    run: RunDirectory,
    config: RunConfig,
    *,
    clients: Sequence[str] | None = None,
    models: int = 64,
    views: int = 9,
    most: int = 2000,
    seed: int = 0,
    keep: Path | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, ClassifierAttack]:
    """Attack what clients of a sealed run on public data have released: client -> what was found.

    Members are the client's records. Others are records of the test part, and where these are too few, of
    other clients, which this classifier has not seen (unless clients took turns at it).

    Args:
        config: of the run, as `run_config` gives it.
        clients: whose classifiers; all where None.
        models: shadow models of each, even, >= 4. views: of a record, from 1 to 25.
        most: judged records of either kind; a random part where there are more.
        seed: of halves, shadow noise and choices.
        keep: a folder for finished shadow models, so that an attack that was stopped goes on where it was.
        progress: is told updates done, under the stage "shadow models" with the client's name as its note.

    Raises:
        UserError: the run keeps no classifiers, a client is not in it, or a number does not fit.
    """
    if models < FEWEST_MODELS or models % 2:
        raise UserError(f"shadow models = {models}: must be even and {FEWEST_MODELS} or more")
    from attacks.membership.views import MOST_VIEWS

    if not 1 <= views <= MOST_VIEWS:
        raise UserError(f"views = {views}: must be from 1 to {MOST_VIEWS}")
    if config.classifier.enabled and config.classifier.optimizer != "sgd":
        raise UserError(
            f"classifier.optimizer = {config.classifier.optimizer!r}: shadow models are trained by 'sgd' only"
        )
    members = {member.name: member for member in read_collection(run, CLASSIFIERS)}
    wanted = list(members) if clients is None else list(clients)
    for client in wanted:
        if client not in members:
            raise UserError(f"{client}: the run keeps no classifier of it; it has {', '.join(members)}")
    check_membership(run, config)
    statement, plan = run.read_json("privacy.json"), build_plan(config, config.data.root)
    tell = progress or (lambda _: None)
    found = {}
    for client in wanted:
        pool = _Pool.of(config, client, np.random.default_rng(derive_seed(seed, "pool", client)), most)
        signals = _signals(run, plan, members[client], pool, models, views, seed, keep, tell)
        judged = np.concatenate([pool.members, pool.others])
        inside = np.arange(len(judged)) < len(pool.members)
        scores = attempts(signals, np.flatnonzero(~inside))
        found[client] = ClassifierAttack(
            client=client,
            architecture=members[client].spec.architecture,
            models=models,
            views=views,
            pool=len(pool.labels),
            differs=_differs(config),
            attacks={
                name: summarise(
                    score,
                    inside,
                    float(statement["epsilon"]),
                    float(statement["delta"]),
                    {"class": pool.labels[judged]},
                )
                for name, score in scores.items()
            },
        )
    return found


@dataclass(frozen=True)
class _Pool:
    """Records of which each shadow model sees half.

    Attributes:
        images: float32 [N, C, S, S]. labels: int64 [N]. The client's own come first, all of them.
        members, others: positions of the judged records, int64 [M] each, of one class pair by pair.
        declared: records that the client's plan counts on.
    """

    images: np.ndarray
    labels: np.ndarray
    members: np.ndarray
    others: np.ndarray
    declared: int

    @classmethod
    def of(cls, config: RunConfig, client: str, rng: np.random.Generator, most: int) -> _Pool:
        root, index = config.data.root, config.client_ids.index(client)
        own, test = load_client(config, index, root), load_public_test(config, root)
        strangers = [] if test is None else [test]
        if config.classifier.rounds == 1:
            rest = [load_client(config, i, root) for i in range(config.clients.count) if i != index]
            strangers += [(part.images, part.labels) for part in rest]
        images, labels, members = [own.images], [own.labels], [np.zeros(0, dtype=np.int64)]
        alone = np.arange(len(own.labels))
        for strange_images, strange_labels in strangers:
            first, second = pair_by_class(own.labels[alone], strange_labels, rng)
            images.append(strange_images[second])
            labels.append(strange_labels[second])
            members.append(alone[first])
            alone = np.delete(alone, first)
        paired = np.concatenate(members)
        if len(paired) < 2:
            raise UserError(f"{client}: there are no records of its classes that its classifier has not seen")
        chosen = np.sort(rng.permutation(len(paired))[:most])
        return cls(
            images=np.concatenate(images),
            labels=np.concatenate(labels),
            members=paired[chosen],
            others=len(own.labels) + chosen,
            declared=own.declared_records,
        )


def _signals(
    run: RunDirectory,
    plan: RunPlan,
    member: Member,
    pool: _Pool,
    models: int,
    views: int,
    seed: int,
    keep: Path | None,
    tell: ProgressCallback,
) -> Signals:
    """Logit confidences of the classifier and its shadow models on the judged records."""
    import torch

    from attacks.membership.shadows import random_halves, train_shadows
    from attacks.membership.views import shifted_views
    from mosaic_secure.client.training import fixed_features, initial_classifier
    from mosaic_secure.models.classifiers import predict_logits, trainable_part

    architecture = member.spec.architecture
    start = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
    trained, trunk = trainable_part(start)

    def seen(images: Tensor) -> Tensor:
        """What is trained sees features of a fixed trunk: made once, not at every step of every model."""
        return images if trunk is None else fixed_features(trunk, images)

    def build(_: int) -> nn.Module:
        return copy.deepcopy(trained)  # the weights that all clients start from are public

    def step(done: int, everything: int) -> None:
        tell(Progress("shadow models", done, everything, note=member.name))

    inside = random_halves(models, len(pool.labels), derive_seed(seed, "halves", member.name))
    found = train_shadows(
        build,
        seen(torch.from_numpy(pool.images)),
        torch.from_numpy(pool.labels),
        inside,
        _recipe(plan, pool, architecture),
        seed=derive_seed(seed, "shadows", member.name) % 2**40,  # leaves room for what is derived from it
        keep=keep,
        progress=step,
    )
    judged = np.concatenate([pool.members, pool.others])
    asked = shifted_views(torch.from_numpy(pool.images[judged]), views)
    flat, shape = seen(asked.flatten(0, 1)), asked.shape[:2]
    target = copy.deepcopy(start)
    fill(target, member.tensors, f"{run.path}/{CLASSIFIERS}/{member.name}.safetensors")
    said = predict_logits(trainable_part(target)[0], flat).numpy()
    shadows = found.logits(flat)
    classes, labels = said.shape[-1], pool.labels[judged]
    return Signals(
        logit_confidence(said.reshape(*shape, classes), labels),
        logit_confidence(shadows.reshape(models, *shape, classes), labels),
        inside[:, judged],
    )


def _recipe(plan: RunPlan, pool: _Pool, architecture: str) -> Recipe:
    """As the client trains: the numbers of its plan, all rounds together."""
    from attacks.membership.shadows import Recipe

    dpsgd = plan.dpsgd("classifier", pool.declared, architecture)
    return Recipe(
        steps=dpsgd.steps * plan.config.classifier.rounds,
        sample_rate=dpsgd.sample_rate,
        learning_rate=dpsgd.learning_rate,
        momentum=dpsgd.momentum,
        clip=dpsgd.max_grad_norm,
        noise_multiplier=dpsgd.noise_multiplier,
        ema_decay=dpsgd.ema_decay,
        expected_batch=dpsgd.expected_batch_size,
    )


def _differs(config: RunConfig) -> tuple[str, ...]:
    said = []
    if config.classifier.rounds > 1:
        said.append("they are not averaged with those of other clients between rounds")
    if config.classifier.augmentations > 1:
        said.append("they see each record as it is, and not several views of it")
    return tuple(said)
