"""From releases to one global model: experts, gate, synthetic records, distillation.

All of it is post-processing. Nothing here sees a record or costs privacy, so it can be repeated with parts
switched off to learn what each part is worth (`server/worth.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.models.global_model import HEAD, build_global_model, build_prototype_model, same_trunk
from mosaic_secure.models.registry import build_generator
from mosaic_secure.progress import ReadingCallback
from mosaic_secure.server.class_sampler import ClassSampler, sampler_of
from mosaic_secure.server.distillation import distil
from mosaic_secure.server.experts import ExpertGroup, Memory, Mixture, class_experts
from mosaic_secure.server.fresh_student import SCORE, fresh_student
from mosaic_secure.server.gating import pool, starting_scores, train_gate
from mosaic_secure.server.scoring import Further, further_scores
from mosaic_secure.server.stored import Stored
from mosaic_secure.server.synthetic import draw_from_generators, mix_records

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.server.image_moments import ImageState
    from mosaic_secure.server.prototypes import PrototypeState
    from mosaic_secure.server.synthetic import MomentSampler

__all__ = ["Assembly", "Parts", "Releases", "assemble"]


@dataclass(frozen=True)
class Releases:
    """What the server has after the clients' work; of the weights of many clients some are in memory at a
    time.

    Attributes:
        state: of the prototype expert, or None without prototypes.
        images: moments of images by class, or None without the sampler.
        counts: client id -> noised class counts [K].
        classifiers: client id -> (architecture, weights).
        generators: client id -> state dictionary.
    """

    state: PrototypeState | None
    images: ImageState | None
    counts: Mapping[str, np.ndarray]
    classifiers: Mapping[str, tuple[str, Mapping[str, np.ndarray]]]
    generators: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Parts:
    """Which parts of the server's work are on.

    Without `gate` all experts are trusted alike; without `gate_learning` they keep the trust that the gate
    starts from, on every record.
    """

    prototype_expert: bool = True
    class_experts: bool = True
    gate: bool = True
    gate_learning: bool = True
    sampler: bool = True
    generators: bool = True
    distillation: bool = True
    fresh_student: bool = False

    @classmethod
    def of(cls, plan: RunPlan) -> Parts:
        """The parts that a configuration switches on."""
        config = plan.config
        prototypes = config.prototypes.enabled
        pixels = config.sampler.enabled or (prototypes and config.prototypes.pixel_weight > 0)
        return cls(
            prototype_expert=config.experts.enabled and config.experts.prototype_expert and prototypes,
            class_experts=config.experts.enabled
            and config.experts.class_experts
            and config.classifier.enabled,
            gate=config.gate.enabled,
            gate_learning=config.gate.enabled,
            sampler=config.distill.sampler and pixels,
            generators=config.generator.enabled,
            distillation=config.distill.enabled,
            fresh_student=config.distill.fresh_student,
        )


@dataclass(frozen=True)
class Assembly:
    """The result: the global model, and what it was made from.

    Attributes:
        model: the global model.
        mixture: all experts. generators: by client, those of clients made anew whenever they are asked for.
        scores: accuracy by name ("global", "teacher", "fresh cnn", "experts/...") on the public test part, if
            any.
        facts: sizes and settings worth a line in the metrics.
        synthetic: the synthetic records: images [N, C, S, S] in [0, 1] and labels [N]: the teacher's where a
            fresh student learnt from them, or those that they were drawn for.
        further: other scores of "global", "teacher" and "fresh cnn" there; see `server/scoring.py`.
        sampler: of moments by class, or None.
    """

    model: nn.Module
    mixture: Mixture
    generators: Mapping[str, nn.Module]
    scores: Mapping[str, float]
    facts: Mapping[str, Any]
    synthetic: tuple[Tensor, Tensor]
    further: Further = field(default_factory=dict)
    sampler: nn.Module | None = None


def assemble(
    plan: RunPlan,
    releases: Releases,
    parts: Parts,
    device: str = "cpu",
    test: tuple[np.ndarray, np.ndarray] | None = None,
    note: Callable[[str], None] = lambda _: None,
    memory: Memory | None = None,
    read: ReadingCallback | None = None,
) -> Assembly:
    """Build experts, gate and synthetic records, and distil the global model.

    Args:
        test: public test images [N, C, S, S] and labels [N]; used for scores only, after everything is fixed.
        note: is told what is being done.
        memory: of what the experts answered, where the same releases are assembled more than once.
        read: is told the losses of gate and student.
    """
    config, seed = plan.config, plan.config.seed
    note("experts")
    prototype = _prototype_group(plan, releases.state) if releases.state is not None else None
    mixture = _mixture(plan, releases, parts, prototype)
    generators = _generators(plan, releases)
    note("synthetic records")
    sampler = sampler_of(plan, releases.state, releases.images) if parts.sampler else None
    images, labels, own = _pool(plan, releases, parts, generators, sampler, device)

    def seen(inputs: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """Codes for the prototype expert, and for a student with the same trunk; and what the experts say."""
        codes: dict[str, Tensor] = {}
        if prototype is not None and parts.prototype_expert:
            make = partial(prototype.features, inputs, device)
            codes[HEAD] = make() if memory is None else memory.recall(("codes",), inputs, make)
        return codes, mixture.log_probabilities(inputs, device, codes, memory)

    codes, answers = seen(images)
    shared = bool(codes) and same_trunk(plan)
    prior = starting_scores(mixture.names, "prototype", config.gate.prototype_trust)
    gate, trust = None, prior if parts.gate else None
    if parts.gate and parts.gate_learning and len(mixture.names) > 1:
        note("gate")
        agreed = own | (pool(answers, prior).argmax(-1) == labels)
        rows = agreed.nonzero().flatten()
        if len(rows):
            gate = train_gate(answers[rows], labels[rows], prior, config.gate, seed, device, read)
    model = _student(plan, releases.state, parts, prototype)
    fresh = None
    if parts.fresh_student:
        note("fresh student")
        labels = teach(gate, answers, trust).argmax(-1)
        fresh = fresh_student(images, labels, plan.num_classes, seed, device)
    kept = 0
    if parts.distillation:
        note("distillation")
        mixed = mix_records(images, seed)
        more, answered = seen(mixed)
        answers = torch.cat([answers, answered])
        inputs, teacher = torch.cat([images, mixed]), teach(gate, answers, trust)
        features = torch.cat([codes[HEAD], more[HEAD]]) if shared else None
        kept = distil(model, inputs, teacher, config.distill, seed, device, features, read)
    facts = {"experts": len(mixture.names), "synthetic_records": len(images), "distilled_on": kept}
    scores, further = _scores(
        mixture.names, lambda found: teach(gate, found, trust), model, fresh, test, seen, shared
    )
    kept_sampler = sampler.model if isinstance(sampler, ClassSampler) else None
    return Assembly(model.eval(), mixture, generators, scores, facts, (images, labels), further, kept_sampler)


def teach(gate: nn.Module | None, answers: Tensor, trust: Tensor | None = None) -> Tensor:
    """The teacher's log-probabilities [B, K] from the experts' [B, E, K].

    Without a gate the experts are pooled under the fixed scores `trust` [E], or evenly without those.
    """
    if gate is None:
        return pool(answers, trust)
    with torch.no_grad():
        return torch.cat([gate(part) for part in answers.split(4096)])


def _prototype_group(plan: RunPlan, state: PrototypeState) -> ExpertGroup:
    model = build_prototype_model(plan)
    model.trunk.centre.copy_(torch.from_numpy(state.centre).float())
    weights = {
        "linear.weight": torch.from_numpy(state.weights.T.copy()).float()[None],
        "linear.bias": torch.from_numpy(state.bias(plan.config.prototypes.balance)).float()[None],
    }
    return ExpertGroup(HEAD, ("prototype",), model, weights)


def _mixture(plan: RunPlan, releases: Releases, parts: Parts, prototype: ExpertGroup | None) -> Mixture:
    from mosaic_secure.client.training import initial_classifier

    groups = [prototype] if prototype is not None and parts.prototype_expert else []
    if releases.classifiers:
        members: dict[str, list[str]] = {}
        for client, (architecture, _) in releases.classifiers.items():
            members.setdefault(architecture, []).append(client)
        weights = Stored(list(releases.classifiers), lambda client: releases.classifiers[client][1])
        for architecture, clients in members.items():
            template = initial_classifier(plan.config, architecture, plan.image_shape, plan.num_classes)
            counts = np.stack([releases.counts[client] for client in clients])
            groups.append(
                class_experts(architecture, template, clients, weights, counts, parts.class_experts)
            )
    return Mixture(tuple(groups))


def _generators(plan: RunPlan, releases: Releases) -> Mapping[str, nn.Module]:
    config = plan.config.generator

    def build(client: str) -> nn.Module:
        model = build_generator(
            config.architecture, plan.image_shape, plan.num_classes, 0, latent_dim=config.latent_dim
        )
        tensors = releases.generators[client]
        model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()})
        return model.eval().requires_grad_(False)

    return Stored(list(releases.generators), build)


def _pool(
    plan: RunPlan,
    releases: Releases,
    parts: Parts,
    generators: Mapping[str, nn.Module],
    sampler: ClassSampler | MomentSampler | None,
    device: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and which records have labels that need no second opinion.

    Those are class means, and what is drawn closely about them; the class sampler draws widely.
    """
    config, seed = plan.config.distill, plan.config.seed
    use_generators = parts.generators and bool(generators)
    size = config.synthetic_pool
    drawn = size if sampler is None else round(size * config.generator_part) if use_generators else 0
    images, labels, own = [], [], []
    if sampler is not None:
        asked = torch.arange(size - drawn) % plan.num_classes
        images += [sampler.prototypes(), sampler.draw(asked, seed)]
        labels += [torch.arange(plan.num_classes), asked]
        close = not isinstance(sampler, ClassSampler)
        own += [torch.ones(plan.num_classes, dtype=torch.bool), torch.full(asked.shape, close)]
    if use_generators:
        counts = np.stack([releases.counts[client] for client in generators])
        pictures, classes = draw_from_generators(generators.values(), counts, drawn, seed, device)
        images.append(pictures)
        labels.append(classes)
        own.append(torch.zeros(len(classes), dtype=torch.bool))
    return torch.cat(images), torch.cat(labels), torch.cat(own)


def _student(
    plan: RunPlan, state: PrototypeState | None, parts: Parts, prototype: ExpertGroup | None
) -> nn.Module:
    model = build_global_model(plan)
    if plan.config.global_model.architecture == HEAD and state is not None:
        model.trunk.centre.copy_(torch.from_numpy(state.centre).float())
        if prototype is not None and parts.prototype_expert and plan.config.distill.warm_start:
            with torch.no_grad():
                for name, value in prototype.expert(0).items():
                    dict(model.head.named_parameters())[name].copy_(value)
    return model


def _scores(
    names: tuple[str, ...],
    teacher: Callable[[Tensor], Tensor],
    model: nn.Module,
    fresh: nn.Module | None,
    test: tuple[np.ndarray, np.ndarray] | None,
    seen: Callable[[Tensor], tuple[Mapping[str, Tensor], Tensor]],
    shared: bool,
) -> tuple[dict[str, float], Further]:
    """Scores of experts, teacher, global model (of the codes themselves if `shared`) and fresh student."""
    if test is None:
        return {}, {}
    images, labels = torch.from_numpy(test[0]), torch.from_numpy(test[1])

    def accuracy(predicted: Tensor) -> float:
        return float((predicted.argmax(-1) == labels).double().mean())

    codes, answers = seen(images)
    scores = {f"experts/{name}": accuracy(answers[:, i]) for i, name in enumerate(names)}
    found = predict_logits(model.head, codes[HEAD]) if shared else predict_logits(model, images)
    outputs = {"teacher": teacher(answers), "global": found}
    if fresh is not None:
        outputs[SCORE] = predict_logits(fresh, images)
    scores |= {name: accuracy(found) for name, found in outputs.items()}
    return scores, further_scores(outputs, test[1])
