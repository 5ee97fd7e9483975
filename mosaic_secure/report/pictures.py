"""Pictures inside a page: what inversion found, above the nearest records, as one PNG an attack."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.rates import adjusted

if TYPE_CHECKING:
    from mosaic_secure.audit.inversion import Inversion, Inverted

__all__ = ["inversion_context", "picture_grid"]

COLUMNS = 10
_TILE = 48  # least side of a picture, pixels: digits of 8x8 are too small to see
_GAP = 4
_ROWS = ("what the attack found", "the nearest training records", "the nearest fresh records")
_LEVEL = 0.05  # at which distances are said to be more than chance, all attacks together


def inversion_context(inversion: Inversion, *, records: bool) -> dict[str, Any]:
    """What ``audit_inversion.html`` wants as `inversion`: numbers, sentences and pictures.

    Args:
        records: show the nearest real records below what was found; for public data only.
    """
    attacks = [_attack(attack, inversion.class_names, records) for attack in inversion.attacks]
    return {**inversion.to_dict(), "attacks": attacks, "says": _says(inversion), "records": records}


def picture_grid(rows: list[np.ndarray]) -> bytes:
    """A PNG of rows of pictures, enlarged by a whole number, with gaps that let the page through.

    Args:
        rows: each uint8 [N, C, H, W] with C 1 or 3; the same shape.
    """
    from PIL import Image

    count, channels, height, width = rows[0].shape
    scale = max(1, -(-_TILE // min(height, width)))
    high, wide = scale * height, scale * width
    sheet = np.zeros((len(rows) * (high + _GAP) - _GAP, count * (wide + _GAP) - _GAP, 4), np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            large = picture.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
            top, left = row * (high + _GAP), column * (wide + _GAP)
            tile = sheet[top : top + high, left : left + wide]
            tile[..., :3] = large[..., :1] if channels != 3 else large
            tile[..., 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _attack(attack: Inverted, names: tuple[str, ...], records: bool) -> dict[str, Any]:
    shown = _shown(attack)
    sides = (attack.images, attack.members, attack.fresh) if records else (attack.images,)
    rows = _ROWS[: len(sides)]
    grid = picture_grid([side[shown] for side in sides])
    columns = ", ".join(names[label] for label in attack.classes[shown])
    number = "All" if len(shown) == len(attack.images) else f"{len(shown)} of"
    caption = f"{number} {len(attack.images)} pictures. From top: {'; '.join(rows)}. From left: {columns}."
    return {
        **attack.to_dict(),
        "picture": f"data:image/png;base64,{base64.b64encode(grid).decode('ascii')}",
        "alt": f"Grid of {len(rows)} by {len(shown)} pictures: {'; '.join(rows)}, for {columns}. "
        f"{_in_words(attack)}",
        "caption": caption,
    }


def _shown(attack: Inverted) -> np.ndarray:
    """Of each class as many as there is room for, the surest first; int64, classes in order."""
    classes = np.unique(attack.classes)[:COLUMNS]
    each = COLUMNS // len(classes)
    order = np.argsort(-attack.sureness, kind="stable")
    return np.concatenate([order[attack.classes[order] == label][:each] for label in classes])


def _in_words(attack: Inverted) -> str:
    seen = attack.recognised
    said = f"{seen.hits} of {seen.trials} pictures are recognised by another model"
    if attack.nearer is None:
        return f"{said}; none is nearer to one kind of record than to the other."
    return f"{said}; {attack.nearer.hits} of {attack.nearer.trials} are nearer to a training record."


def _says(inversion: Inversion) -> str:
    """What the distances amount to, all attacks together."""
    if not inversion.attacks:
        return "No attack was possible."
    chances = adjusted({attack.name: attack.chance for attack in inversion.attacks})
    near = [name for name, chance in chances.items() if chance <= _LEVEL]
    if not near:
        return (
            "By none of the attacks do pictures lie nearer to training records than to fresh ones more often "
            "than chance explains."
        )
    return (
        f"Pictures of these attacks lie nearer to training records than to fresh ones more often than chance "
        f"explains, so look at them: {', '.join(near)}."
    )
