"""A run from the server's chair: collect releases, build the global model, end the run, write it down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic_secure import __version__
from mosaic_secure.client.training import weights_of
from mosaic_secure.config.layers import ONE_ARCHITECTURE
from mosaic_secure.engine.discovery import Node, discover
from mosaic_secure.models.classifiers import predict_logits
from mosaic_secure.models.global_model import build_global_model, global_options, global_seed
from mosaic_secure.progress import Progress, ProgressCallback, ReadingCallback
from mosaic_secure.protocol.log import MessageLog
from mosaic_secure.protocol.traffic import traffic_rows
from mosaic_secure.report.papers import write_papers
from mosaic_secure.runs.artefacts import (
    CLASSIFIERS,
    Member,
    ModelSpec,
    write_collection,
    write_global_model,
)
from mosaic_secure.runs.encoding import json_line
from mosaic_secure.runs.synthesis import SAMPLER, SyntheticImages, npz_bytes, png_grid
from mosaic_secure.seeds import torch_generator
from mosaic_secure.server.alone import LOCAL_MEAN, client_classifiers, local_scores
from mosaic_secure.server.assembly import Assembly, Parts, Releases, assemble
from mosaic_secure.server.class_sampler import ARCHITECTURE, sampler_options
from mosaic_secure.server.coordinator import Coordinator
from mosaic_secure.server.courier import Courier
from mosaic_secure.server.fresh_student import SCORE
from mosaic_secure.server.inspection import most_bytes
from mosaic_secure.server.scoring import AUC, BALANCED, Further, further_scores
from mosaic_secure.server.worth import worth
from privacy.accounting import compose_epsilon, event_from_dict

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["lead"]

SYNTHETIC_SAMPLE = 1000


def lead(
    grid: Grid,
    run: RunDirectory,
    plan: RunPlan,
    roster: Mapping[str, str],
    device: str,
    progress: ProgressCallback,
    ablate: bool = False,
    read: ReadingCallback | None = None,
    find: Callable[[], Mapping[str, Node]] | None = None,
    patience: float | None = None,
) -> dict[str, Any]:
    """Everything between the first message and the sealed directory.

    Args:
        read: is told losses of the server's own training.
        find: party id -> node of those that are there; every node of the grid is asked when None.
        patience: seconds to wait for the answers to a request, and for an authority that is away; None waits
            for answers for ever.

    Returns:
        accuracy, balanced_accuracy, auc (of a local run means over clients), the same of the teacher,
        fresh_student_accuracy, epsilon (of what was done), ablation. Scores are None without a public test
        part.
    """
    from mosaic_secure.data import load_public_test

    torch.set_num_threads(plan.config.engine.threads or 1)
    nodes = find() if find is not None else discover(grid, len(roster), version=__version__)
    courier = Courier(grid, nodes, MessageLog(run.path / "messages.jsonl"), patience, most_bytes(plan))
    coordinator = Coordinator(courier, run, plan, roster, progress, patience or 0.0)
    test = load_public_test(plan.config, plan.config.data.root)
    releases = coordinator.collect()
    method = plan.config.method
    classifiers = client_classifiers(plan, releases)
    _write_classifiers(run, plan, classifiers)
    if method == "local":
        scores, further = local_scores(classifiers, test)
    else:
        state, scores, further = (
            (_state_of(build_global_model(plan)), {}, {})
            if method in ONE_ARCHITECTURE
            else _build(run, plan, releases, device, test, progress, read)
        )
        if plan.config.fine_tune.rounds:
            model = build_global_model(plan)
            _load(model, state)
            state = coordinator.fine_tune(state, tuple(weights_of(model)))
            scores, further = _rescored(plan, state, scores, further, test)
        write_global_model(run, _spec(plan, "global"), state)
    rows = (
        worth(plan, releases, device, test, lambda text: progress(Progress("ablation", note=text)))
        if ablate
        else []
    )
    ended = coordinator.finish()
    _write_metrics(run, scores, further, coordinator.left_out)
    done = {client: _spent(excerpt, plan.budget.delta) for client, excerpt in ended["excerpts"].items()}
    write_papers(run, plan, ended, done)
    chosen = LOCAL_MEAN if method == "local" else "global"
    balanced, area = further.get(BALANCED, {}), further.get(AUC, {})
    return {
        "accuracy": scores.get(chosen),
        "balanced_accuracy": balanced.get(chosen),
        "auc": area.get(chosen),
        "teacher_accuracy": scores.get("teacher"),
        "teacher_balanced_accuracy": balanced.get("teacher"),
        "teacher_auc": area.get("teacher"),
        "fresh_student_accuracy": scores.get(SCORE),
        "epsilon": max(done.values(), default=plan.budget.epsilon),
        "ablation": tuple(rows),
    }


def _build(
    run: RunDirectory,
    plan: RunPlan,
    releases: Releases,
    device: str,
    test: tuple[np.ndarray, np.ndarray] | None,
    progress: ProgressCallback,
    read: ReadingCallback | None,
) -> tuple[dict[str, np.ndarray], dict[str, float], Further]:
    found = run.load_stage("assembled")
    if found is not None:  # an older version kept no further scores
        return found[0], dict(found[1]["scores"]), dict(found[1].get("further", {}))

    def note(text: str) -> None:
        progress(Progress("global model", note=text))

    if plan.config.method == "dense":
        from mosaic_secure.server.dense import condense

        made = condense(plan, releases, device, test, note, read)
    else:
        made = assemble(plan, releases, Parts.of(plan), device, test, note, read=read)
    _write_experts(run, plan, made)
    _write_generators(run, plan, made, releases)
    _write_sampler(run, plan, made)
    _write_synthetic(run, plan, made)
    state = _state_of(made.model)
    kept = {"scores": dict(made.scores), "further": made.further, "facts": dict(made.facts)}
    run.save_stage("assembled", state, kept)
    progress(Progress("global model", 1, 1))
    return state, dict(made.scores), made.further


def _rescored(
    plan: RunPlan,
    state: Mapping[str, np.ndarray],
    scores: Mapping[str, float],
    further: Further,
    test: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[dict[str, float], Further]:
    """All scores, those of the global model anew; what it had before fine-tuning is kept as "distilled"."""
    if test is None:
        return dict(scores), further
    model = build_global_model(plan)
    _load(model, state)
    logits = predict_logits(model, torch.from_numpy(test[0]))
    found = {"accuracy": {"global": float((logits.argmax(-1).numpy() == test[1]).mean())}}
    found |= further_scores({"global": logits}, test[1])
    known: Mapping[str, Mapping[str, float | None]] = {"accuracy": scores, **further}
    merged = {}
    for metric, values in found.items():
        old = known.get(metric, {})
        before = {"distilled": old["global"]} if "global" in old else {}
        merged[metric] = {**old, **before, **values}
    return merged.pop("accuracy"), merged


def _state_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in model.state_dict().items()}


def _write_classifiers(
    run: RunDirectory, plan: RunPlan, classifiers: Mapping[str, tuple[str, torch.nn.Module]]
) -> None:
    """What each client released, as the server has it in the clear, so that an audit can attack it."""
    if not classifiers:
        return
    members = (
        Member(client, _spec(plan, "classifier", architecture), _state_of(model))
        for client, (architecture, model) in classifiers.items()
    )
    write_collection(run, CLASSIFIERS, members)


def _load(model: torch.nn.Module, state: Mapping[str, np.ndarray]) -> None:
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})


def _spec(plan: RunPlan, kind: str, architecture: str = "") -> ModelSpec:
    from mosaic_secure.client.training import initial_options, initial_seed
    from mosaic_secure.models.global_model import prototype_options

    shape, classes, names = plan.image_shape, plan.num_classes, plan.info.class_names
    if kind == "global":
        chosen = plan.config.global_model.architecture
        return ModelSpec(chosen, shape, classes, global_seed(plan), global_options(plan), names)
    if architecture == "prototype_head":
        return ModelSpec(architecture, shape, classes, 0, prototype_options(plan), names)
    options = initial_options(plan.config, architecture)
    return ModelSpec(architecture, shape, classes, initial_seed(plan.config, architecture), options, names)


def _write_experts(run: RunDirectory, plan: RunPlan, made: Assembly) -> None:
    def members() -> Iterator[Member]:
        for group in made.mixture.groups:
            spec = _spec(plan, "expert", group.architecture)
            for index, name in enumerate(group.names):
                state = dict(group.template.state_dict())
                prefix = "head." if group.template.frozen_trunk else ""
                state.update({prefix + key: value for key, value in group.expert(index).items()})
                yield Member(name.replace("/", "-"), spec, state)

    write_collection(run, "experts", members())


def _write_generators(run: RunDirectory, plan: RunPlan, made: Assembly, releases: Releases) -> None:
    """The clients' generators, weighted by noised counts, or the one that the server trained itself."""
    if not made.generators:
        return
    config = plan.config.dense if plan.config.method == "dense" else plan.config.generator
    spec = ModelSpec(
        config.architecture,
        plan.image_shape,
        plan.num_classes,
        0,
        {"latent_dim": config.latent_dim},
        plan.info.class_names,
    )

    def members() -> Iterator[Member]:
        for name, generator in made.generators.items():
            sizes = np.maximum(releases.counts.get(name, np.ones(plan.num_classes)), 0.0)
            yield Member(name, spec, _state_of(generator), float(sizes.sum()), tuple(map(float, sizes)))

    write_collection(run, "generators", members())


def _write_sampler(run: RunDirectory, plan: RunPlan, made: Assembly) -> None:
    """The class Gaussians, from which `synth` draws."""
    if made.sampler is None:
        return
    shape, classes, names = plan.image_shape, plan.num_classes, plan.info.class_names
    spec = ModelSpec(ARCHITECTURE, shape, classes, 0, sampler_options(plan), names)
    write_collection(run, SAMPLER, [Member("sampler", spec, _state_of(made.sampler))])


def _write_synthetic(run: RunDirectory, plan: RunPlan, made: Assembly) -> None:
    """A sample of the records that the global model was distilled on, and a picture of it."""
    images, labels = made.synthetic
    chosen = torch.randperm(len(images), generator=torch_generator(plan.config.seed, "synthetic-sample"))
    chosen = chosen[:SYNTHETIC_SAMPLE]
    sample = SyntheticImages(
        images=(images[chosen] * 255.0).round().to(torch.uint8).numpy(),
        labels=labels[chosen].numpy(),
        sources=np.zeros(len(chosen), dtype=np.int64),
        generators=("distillation pool",),
        class_names=plan.info.class_names,
    )
    run.write_bytes("synthetic/sample.npz", npz_bytes(sample))
    run.write_bytes("synthetic/grid.png", png_grid(sample))


def _write_metrics(
    run: RunDirectory, scores: Mapping[str, float], further: Further, left_out: list[tuple[str, str, str]]
) -> None:
    rows: list[dict[str, Any]] = [
        {"metric": metric, "of": name, "on": "public test", "value": value}
        for metric, values in {"accuracy": scores, **further}.items()
        for name, value in values.items()
    ]
    rows = rows or [{"metric": "accuracy", "of": "global", "on": None, "value": None}]
    rows += [
        {"metric": "left out", "of": client, "on": stage, "value": code} for stage, client, code in left_out
    ]
    rows += traffic_rows(run.path / "messages.jsonl")
    run.write_bytes("metrics.jsonl", b"".join(json_line(row) for row in rows))


def _spent(excerpt: Mapping[str, Any], delta: float) -> float:
    """Epsilon composed from the releases that a ledger excerpt lists."""
    events = tuple(event_from_dict(release["event"]) for release in excerpt["releases"])
    return compose_epsilon(events, delta) if events else 0.0
