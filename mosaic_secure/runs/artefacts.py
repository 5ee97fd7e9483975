"""Networks on disk: weights as safetensors beside a JSON description they are rebuilt from.

The global model is ``global_model.safetensors`` and ``model.json``. A collection (``generators/``,
``experts/``, the clients' ``classifiers/``) is one safetensors file a member and an ``index.json`` that
describes them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.runs.directory import RunDirectory

if TYPE_CHECKING:
    from torch import nn

GLOBAL_WEIGHTS = "global_model.safetensors"
GLOBAL_MODEL = "model.json"
INDEX = "index.json"
CLASSIFIERS = "classifiers"


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network of the registry again.

    Attributes:
        architecture: a name of `mosaic_secure.models.registry`.
        image_shape: (channels, height, width) of the images it reads or draws.
        num_classes: number of classes.
        seed: seed of its fixed and initial parameters.
        options: keyword options of the architecture.
        class_names: one name a class; empty where only numbers are known.
    """

    architecture: str
    image_shape: tuple[int, int, int]
    num_classes: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "architecture": self.architecture,
            "options": dict(self.options),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str) -> ModelSpec:
        """Read a description; :class:`UserError` names `where` if a field is missing or impossible."""
        try:
            shape = tuple(int(side) for side in content["image_shape"])
            spec = cls(
                architecture=str(content["architecture"]),
                image_shape=shape,
                num_classes=int(content["num_classes"]),
                seed=int(content["seed"]),
                options=dict(content["options"]),
                class_names=tuple(str(name) for name in content["class_names"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} is damaged: it does not describe a model") from error
        if len(shape) != 3 or min(shape) < 1 or len(spec.class_names) not in (0, spec.num_classes):
            raise UserError(f"{where} is damaged: image shape or class names are impossible")
        return spec


@dataclass(frozen=True)
class Member:
    """One network of a collection.

    Attributes:
        name: what it is called, such as ``"client-3"``; also the stem of its file.
        spec: how it is built.
        weight: how much it counts among the others, at least 0.
        class_weights: how much it counts for each class; ``None`` for the same everywhere.
        tensors: its state dictionary as arrays (or torch tensors, when writing).
    """

    name: str
    spec: ModelSpec
    tensors: Mapping[str, Any] = field(repr=False)
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None


def write_global_model(run: RunDirectory, spec: ModelSpec, tensors: Mapping[str, Any]) -> None:
    """Write the run's result: its description and the state dictionary of the network."""
    run.write_json(GLOBAL_MODEL, spec.to_dict())
    run.write_tensors(GLOBAL_WEIGHTS, tensors)


def read_global_model(run: RunDirectory) -> tuple[nn.Module, ModelSpec]:
    """Build the global model of a run, in evaluation mode on the CPU.

    Raises:
        UserError: a file is missing or damaged, the weights do not fit the description, or it is a local run.
    """
    from mosaic_secure.models.registry import build_classifier

    local = run.sealed and GLOBAL_MODEL not in run.manifest["files"]
    if local and run.has(f"{CLASSIFIERS}/{INDEX}"):
        raise UserError(
            f"run {run.path} is of method 'local', which has no global model: each client's classifier is in "
            f"{CLASSIFIERS}/"
        )
    spec = ModelSpec.from_dict(run.read_json(GLOBAL_MODEL), f"{run.path}/{GLOBAL_MODEL}")
    tensors = run.read_tensors(GLOBAL_WEIGHTS)
    module = build_classifier(
        spec.architecture, spec.image_shape, spec.num_classes, spec.seed, **spec.options
    )
    return fill(module, tensors, f"{run.path}/{GLOBAL_WEIGHTS}"), spec


def write_collection(run: RunDirectory, folder: str, members: Iterable[Member]) -> None:
    """Write networks under ``folder/``, one after the other: a file of weights each, and the index of all."""
    entries = []
    for member in members:
        run.write_tensors(f"{folder}/{member.name}.safetensors", member.tensors)
        entries.append(
            {
                "name": member.name,
                "file": f"{member.name}.safetensors",
                "weight": member.weight,
                "class_weights": member.class_weights,
                "model": member.spec.to_dict(),
            }
        )
    run.write_json(f"{folder}/{INDEX}", {"members": entries})


def read_collection(run: RunDirectory, folder: str) -> tuple[Member, ...]:
    """Read what :func:`write_collection` wrote.

    Raises:
        UserError: the collection is missing or damaged.
    """
    where = f"{run.path}/{folder}/{INDEX}"
    if not run.has(f"{folder}/{INDEX}"):
        raise UserError(
            f"run {run.path} has no {folder}: that part was switched off, or the run is not finished"
        )
    content = run.read_json(f"{folder}/{INDEX}")
    try:
        entries = [
            (
                str(entry["name"]),
                str(entry["file"]),
                float(entry["weight"]),
                None if entry["class_weights"] is None else tuple(float(w) for w in entry["class_weights"]),
                ModelSpec.from_dict(entry["model"], where),
            )
            for entry in content["members"]
        ]
        return tuple(
            Member(name, spec, run.read_tensors(f"{folder}/{file}"), weight, class_weights)
            for name, file, weight, class_weights, spec in entries
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged: it does not describe its members") from error


def fill(module: nn.Module, tensors: Mapping[str, np.ndarray], where: str) -> nn.Module:
    """Load a state dictionary into a network and put it in evaluation mode, without gradients.

    Raises:
        UserError: names or shapes differ from what the network has; `where` names the file.
    """
    import torch

    try:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    except RuntimeError as error:
        raise UserError(f"{where} is damaged: its weights do not fit the model's description") from error
    return module.eval().requires_grad_(False)
