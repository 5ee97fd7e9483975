"""Synthetic images from the sampler or the generators of a run: a PNG to look at and an .npz to work with.

Both follow from what was released under the run's guarantee, so drawing from them costs no privacy.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_secure.errors import UserError
from mosaic_secure.runs.artefacts import INDEX, Member, fill, read_collection, read_global_model
from mosaic_secure.runs.directory import RunDirectory

GENERATORS = "generators"
SAMPLER = "sampler"
GRID_COLUMNS = 10
MAX_COUNT = 1_000_000
_BATCH = 256
_TILE = 48  # least width of one image of the grid, in pixels


@dataclass(frozen=True)
class SyntheticImages:
    """Images that no record was needed for.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], the class each was drawn for by a generator; of the sampler's, which draws widely,
            the class that the run's global model sees in it.
        sources: int64 [N], index of its generator in `generators`.
        generators: names of the generators.
        class_names: one name a class.
    """

    images: np.ndarray
    labels: np.ndarray
    sources: np.ndarray
    generators: tuple[str, ...]
    class_names: tuple[str, ...]


def draw(run: str | Path, count: int, seed: int = 0) -> SyntheticImages:
    """Draw synthetic images, classes in turn: from the run's sampler of class moments where it has one, or
    from its generators, by their weight for the class.

    Args:
        run: the run directory.
        count: how many, from 1 to 1,000,000.
        seed: of labels, generators and latents; the same run, count and seed give the same images.

    Raises:
        UserError: a bad count or run, or a run without sampler and generators.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UserError(f"count {count}: expected 1 to {MAX_COUNT}")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed}: expected 0 to 2^63 - 1")
    opened = RunDirectory.open(run)
    kind = SAMPLER if opened.has(f"{SAMPLER}/{INDEX}") else GENERATORS
    members = read_collection(opened, kind)
    if not members:
        raise UserError(f"run {run} has no generators: they were switched off in its configuration")
    spec = members[0].spec
    labels = np.arange(count, dtype=np.int64) % spec.num_classes
    sources = _choose(members, labels, np.random.default_rng(seed), f"{run}/{kind}")
    images = np.empty((count, *spec.image_shape), np.uint8)
    for index, member in enumerate(members):
        mine = np.flatnonzero(sources == index)
        images[mine] = _generate(member, labels[mine], seed * len(members) + index, f"{run}/{kind}")
    if kind == SAMPLER:
        labels = _recognised(opened, images)
    names = spec.class_names or tuple(str(label) for label in range(spec.num_classes))
    return SyntheticImages(images, labels, sources, tuple(member.name for member in members), names)


def write(synthetic: SyntheticImages, to: str | Path) -> dict[str, Any]:
    """Write ``synthetic.npz`` (images, labels, sources, names) and ``grid.png`` (up to 100 images).

    Args:
        synthetic: what :func:`draw` gave.
        to: a folder that does not exist or is empty.

    Returns:
        ``{"npz": path, "png": path, "count": N}``.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    from privacy.storage import write_durably

    folder = Path(to)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; expected a folder that does not exist or is empty")
        write_durably(folder / "grid.png", png_grid(synthetic))
        write_durably(folder / "synthetic.npz", npz_bytes(synthetic))
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
    return {
        "npz": str(folder / "synthetic.npz"),
        "png": str(folder / "grid.png"),
        "count": len(synthetic.labels),
    }


def npz_bytes(synthetic: SyntheticImages) -> bytes:
    """The images with their labels and sources as a compressed .npz without pickled objects."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        images=synthetic.images,
        labels=synthetic.labels,
        sources=synthetic.sources,
        generators=np.array(synthetic.generators),
        class_names=np.array(synthetic.class_names),
    )
    return content.getvalue()


def png_grid(synthetic: SyntheticImages) -> bytes:
    """The first images, up to ten a class and a hundred in all, as one PNG: a row for each class."""
    from PIL import Image

    rows: list[Sequence[int]] = []
    for label in range(min(len(synthetic.class_names), GRID_COLUMNS)):
        found = np.flatnonzero(synthetic.labels == label)[:GRID_COLUMNS]
        if len(found):
            rows.append(found)
    _, channels, height, width = synthetic.images.shape
    sheet = np.full((len(rows) * (height + 1) + 1, GRID_COLUMNS * (width + 1) + 1, 3), 255, np.uint8)
    for row, found in enumerate(rows):
        for column, index in enumerate(found):
            top, left = row * (height + 1) + 1, column * (width + 1) + 1
            picture = synthetic.images[index].transpose(1, 2, 0)
            sheet[top : top + height, left : left + width] = picture if channels == 3 else picture[..., :1]
    scale = max(1, -(-_TILE // width))
    content = io.BytesIO()
    Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(content, "PNG")
    return content.getvalue()


def _choose(
    members: Sequence[Member], labels: np.ndarray, rng: np.random.Generator, where: str
) -> np.ndarray:
    """Index of a generator for each label, drawn in proportion to weight times class weight."""
    classes = members[0].spec.num_classes
    weights = np.array(
        [np.broadcast_to(m.class_weights if m.class_weights else 1.0, classes) * m.weight for m in members]
    )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"{where}/index.json is damaged: expected weights of 0 or more, not all 0")
    nobody = weights.sum(axis=0) == 0  # no generator claims the class: all of them may try
    weights[:, nobody] = 1.0
    edges = np.cumsum(weights / weights.sum(axis=0), axis=0)[:, labels]
    return (rng.random(len(labels)) > edges).sum(axis=0).clip(max=len(members) - 1)


def _recognised(run: RunDirectory, images: np.ndarray) -> np.ndarray:
    """The global model's classes, int64 [N], of images uint8 [N, C, H, W]."""
    import torch

    from mosaic_secure.models.classifiers import predict_logits

    model, _ = read_global_model(run)
    parts = [
        predict_logits(model, part.float() / 255.0).argmax(-1)
        for part in torch.from_numpy(images).split(8 * _BATCH)
    ]
    return torch.cat(parts).numpy().astype(np.int64)


def _generate(member: Member, labels: np.ndarray, seed: int, where: str) -> np.ndarray:
    import torch

    from mosaic_secure.models.registry import build_generator

    spec = member.spec
    module = build_generator(spec.architecture, spec.image_shape, spec.num_classes, spec.seed, **spec.options)
    fill(module, member.tensors, f"{where}/{member.name}.safetensors")
    random = torch.Generator().manual_seed(seed % 2**63)
    parts = [np.empty((0, *spec.image_shape), np.uint8)]
    with torch.inference_mode():
        for chosen in torch.from_numpy(labels).split(_BATCH):
            latents = torch.randn(len(chosen), module.latent_dim, generator=random)
            parts.append(module(latents, chosen).mul(255).round().clamp(0, 255).byte().numpy())
    return np.concatenate(parts)
