"""Pictures that a sealed run makes possible, and whether they show training records: described, no verdict.

What comes out of an inversion is first of all what a class looks like. So each picture is compared with
training records and as many fresh ones: by how near the nearest is, at equal brightness and contrast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.inversion.judge import recognised, resemblance
from attacks.rates import Rate
from mosaic_secure.audit.prototype_pictures import Prototypes, built_generator
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.runs.artefacts import INDEX, read_collection
from mosaic_secure.runs.predictor import load
from mosaic_secure.runs.synthesis import GENERATORS, SAMPLER
from mosaic_secure.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from attacks.inversion.classes import Classify, Search
    from mosaic_secure.audit.records import JudgedRecords
    from mosaic_secure.config import RunConfig
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["Inversion", "Inverted", "invert"]

PICTURES = 20
"""At least so many from a search in pixels, whose starts differ: a few classes would tell little."""

GENERATORS_A_CLASS = 3
"""Those that weigh most for a class are used for it."""

STEPS, RESTARTS = 200, 3


@dataclass(frozen=True)
class Inverted:
    """What one attack found.

    Attributes:
        name: short, for tables. what: one sentence that says what was used.
        images: uint8 [N, C, H, W]. classes: int64 [N], what each should show.
        sureness: float64 [N], by which pictures of one attack may be ranked.
        recognised: those that a model of the auditor's own takes for their class.
        nearer: those whose nearest record was trained on, of those that are nearer to one kind; or None.
        chance: of at least that share if it is one half; see `attacks.inversion.judge.Resemblance`.
        members, fresh: uint8 [N, C, H, W], the nearest record of either kind and of that class.
        to_member, to_fresh: float64 [N], distances to them, of pictures of mean zero and norm one: in [0, 2].
    """

    name: str
    what: str
    images: np.ndarray
    classes: np.ndarray
    sureness: np.ndarray
    recognised: Rate
    nearer: Rate | None
    chance: float
    members: np.ndarray
    fresh: np.ndarray
    to_member: np.ndarray
    to_fresh: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers, no pictures."""
        return {
            "name": self.name,
            "what": self.what,
            "pictures": len(self.images),
            "recognised": _rate(self.recognised),
            "nearer_to_training_records": _rate(self.nearer),
            "chance": self.chance,
            "median_distance_to_training_records": float(np.median(self.to_member)),
            "median_distance_to_fresh_records": float(np.median(self.to_fresh)),
        }


@dataclass(frozen=True)
class Inversion:
    """All attacks on one run.

    Attributes:
        evaluator: share of fresh records that the auditor's own model gets right; None without any attack.
        left_out: sentences about what could not be attacked, or compared.
        class_names: one a class.
    """

    attacks: tuple[Inverted, ...]
    evaluator: Rate | None
    left_out: tuple[str, ...]
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers, no pictures."""
        return {
            "evaluator_accuracy": _rate(self.evaluator),
            "attacks": [attack.to_dict() for attack in self.attacks],
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class _Found:
    """Pictures of one attack before they are judged."""

    name: str
    what: str
    images: Tensor
    classes: Tensor
    sureness: Tensor


def invert(
    run: RunDirectory,
    config: RunConfig,
    records: JudgedRecords,
    seed: int,
    progress: ProgressCallback | None = None,
) -> Inversion:
    """Invert a run's model, with its generators too, and its prototypes.

    Args:
        run: sealed. config: of it, with its data where they are.
        records: members and fresh ones to compare with; the population trains the auditor's own model.
        seed: of everything drawn.

    Raises:
        UserError: the run is damaged.
    """
    import torch

    from mosaic_secure.audit.evaluator import train_evaluator

    tell = progress or (lambda _: None)
    if config.method == "local":
        return Inversion((), None, ("Method 'local' has no global model to invert.",), ())
    predictor = load(run)
    attack = _Attack(run, config, records, seed)
    tell(Progress("inversion", 0, 1, note="a model of the auditor's own"))
    evaluate = train_evaluator(
        records.population, records.population_labels, predictor.num_classes, derive_seed(seed, "evaluator")
    )
    fresh = torch.from_numpy(records.images[~records.members])
    accuracy = recognised(_in_parts(evaluate), fresh, torch.from_numpy(records.labels[~records.members]))
    found = []
    for number, pictures in enumerate(attack.all(), start=1):
        found.append(_judged(pictures, records, _in_parts(evaluate), seed))
        tell(Progress("inversion", number, number + 1, note=pictures.name))
    tell(Progress("inversion", len(found) + 1, len(found) + 1))
    return Inversion(tuple(found), accuracy, tuple(attack.left_out), predictor.class_names)


class _Attack:
    """The attacks on one run, one after the other; what cannot be attacked is told in `left_out`."""

    def __init__(self, run: RunDirectory, config: RunConfig, records: JudgedRecords, seed: int) -> None:
        import torch

        from attacks.inversion.classes import Search, frozen

        self.run, self.config, self.records, self.seed = run, config, records, seed
        predictor = load(run)
        self.shape, self.classify = predictor.image_shape, frozen(predictor.module)
        self.search: Search = Search(steps=STEPS, restarts=RESTARTS, seed=derive_seed(seed, "inversion"))
        self.left_out: list[str] = []
        both = np.intersect1d(records.labels[records.members], records.labels[~records.members])
        missing = [n for label, n in enumerate(predictor.class_names) if label not in both]
        if missing:
            self.left_out.append(
                f"Classes without a training record or a fresh one to compare with: {', '.join(missing)}."
            )
        self.classes = torch.from_numpy(both)

    def all(self) -> Iterator[_Found]:
        if not len(self.classes):
            return
        if _lets_gradients_through(self.classify, self.shape):
            yield self._pixels()
            yield from self._generators()
        else:
            self.left_out.append("The global model, through which no gradient passes.")
        yield from self._prototypes()

    def _pixels(self) -> _Found:
        from attacks.inversion.classes import invert_classes

        wanted = self.classes.repeat(math.ceil(PICTURES / len(self.classes)))
        found = invert_classes(self.classify, wanted, self.shape, self.search)
        what = "A search for pixels about which the global model is surest; nothing else is known."
        return _Found("pixels", what, found.images, found.classes, found.confidence)

    def _generators(self) -> Iterator[_Found]:
        """With each kind of generator that the run released: the clients', and the sampler."""
        import torch

        from attacks.inversion.classes import invert_with_generator

        told = {
            GENERATORS: "A search among what generators of the run can draw, for each class the "
            f"{GENERATORS_A_CLASS} that weigh most for it.",
            SAMPLER: "A search among what the run's sampler of class moments can draw.",
        }
        for kind, what in told.items():
            if not self.run.has(f"{kind}/{INDEX}"):
                continue
            members, parts = read_collection(self.run, kind), []
            weights = np.stack(
                [np.asarray(m.class_weights or np.full(m.spec.num_classes, m.weight)) for m in members]
            )
            order = np.argsort(-weights, axis=0, kind="stable")[:GENERATORS_A_CLASS]
            for index, member in enumerate(members):
                mine = torch.tensor([c for c in self.classes.tolist() if index in order[:, c]])
                if len(mine):
                    module = built_generator(member, f"{self.run.path}/{kind}")
                    found = invert_with_generator(self.classify, module, module.latent_dim, mine, self.search)
                    parts.append((found.images, found.classes, found.confidence))
            if parts:
                yield _Found(kind, what, *map(torch.cat, zip(*parts, strict=True)))

    def _prototypes(self) -> Iterator[_Found]:
        import torch

        if self.run.has(f"{SAMPLER}/{INDEX}"):
            (member, *_) = read_collection(self.run, SAMPLER)
            module = built_generator(member, f"{self.run.path}/{SAMPLER}")
            means = module.smooth(torch.zeros(len(self.classes), module.rank), self.classes)
            what = (
                "Class means of images, learnt by the server from encrypted sums, as the sampler keeps them."
            )
            yield _Found("means in the sampler", what, means, self.classes, torch.ones(len(means)))
        prototypes = Prototypes.of(self.run, self.config) if self.config.prototypes.enabled else None
        if prototypes is None:
            self.left_out.append("Prototypes: the run keeps no expert that was made of them.")
            return
        if not _lets_gradients_through(prototypes.encode, self.shape):
            self.left_out.append("Prototypes: no gradient passes through their encoder.")
            return
        if self.records.complete:
            yield self._summed(prototypes)
        else:
            self.left_out.append("Prototypes as the server saw them: that needs the records of all clients.")
        what = (
            "The same for prototypes that follow from the weights of the prototype expert, which the run "
            "keeps, and from how the codes of other records vary."
        )
        told = prototypes.from_weights(self.records.population)
        yield self._matched("prototypes told by the expert", what, prototypes, told)

    def _summed(self, prototypes: Prototypes) -> _Found:
        sums = prototypes.as_summed(derive_seed(self.seed, "noise of the prototypes"))
        what = (
            "A search for a picture with the code of each class's prototype. A run keeps no sums: those that "
            "the server saw were made again from all training records, with fresh noise of the planned size."
        )
        return self._matched("prototypes as the server saw them", what, prototypes, sums)

    def _matched(self, name: str, what: str, prototypes: Prototypes, means: Tensor) -> _Found:
        from attacks.inversion.prototypes import invert_codes

        search = replace(self.search, smoothness=0.1, learning_rate=0.1)
        found = invert_codes(prototypes.encode, means[self.classes], self.shape, search)
        return _Found(name, what, found.images, self.classes, found.likeness)


def _judged(found: _Found, records: JudgedRecords, evaluate: Classify, seed: int) -> Inverted:
    """What was found, rounded to what a picture shows, beside the nearest records."""
    import torch

    images = (found.images.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    classes = found.classes.numpy()
    sides = [
        (records.images[chosen], records.labels[chosen]) for chosen in (records.members, ~records.members)
    ]
    alike = resemblance(
        _standardised(images.numpy() / 255),
        classes,
        *((_standardised(pictures), labels) for pictures, labels in sides),
        seed=derive_seed(seed, "resemblance", found.name),
    )
    return Inverted(
        name=found.name,
        what=found.what,
        images=images.numpy(),
        classes=classes,
        sureness=found.sureness.double().numpy(),
        recognised=recognised(evaluate, images.float() / 255, found.classes),
        nearer=alike.nearer,
        chance=alike.chance,
        members=_as_bytes(sides[0][0][alike.member]),
        fresh=_as_bytes(sides[1][0][alike.fresh]),
        to_member=alike.to_member,
        to_fresh=alike.to_fresh,
    )


def _lets_gradients_through(module: Classify, shape: tuple[int, int, int]) -> bool:
    import torch

    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = module(images)
    if not out.requires_grad:
        return False
    (slopes,) = torch.autograd.grad(out[:, 0].sum(), images, allow_unused=True)
    return slopes is not None and bool(slopes.isfinite().all()) and bool(slopes.abs().sum() > 0)


def _in_parts(model: Classify) -> Classify:
    """The same for any number of images, without gradients."""
    import torch

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([model(part) for part in images.split(256)])

    return answer


def _standardised(images: np.ndarray) -> np.ndarray:
    """Pixels [N, P] of mean zero and norm one: several attacks see neither brightness nor contrast."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _as_bytes(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255).clip(0, 255).astype(np.uint8)


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    interval = {"low": rate.interval.low, "high": rate.interval.high}
    return {"hits": rate.hits, "trials": rate.trials, "value": rate.value, "interval": interval}
