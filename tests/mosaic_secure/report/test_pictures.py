"""Pictures of inversion in a page: every pixel in its place, told in words too, and nothing to fetch."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacks.rates import Rate
from mosaic_secure.audit.inversion import Inversion, Inverted
from mosaic_secure.report.pages import render
from mosaic_secure.report.pictures import inversion_context, picture_grid


def attack(classes: list[int], shape: tuple[int, int, int] = (1, 8, 8), **changes: Any) -> Inverted:
    rng = np.random.default_rng(0)
    sides = [rng.integers(0, 256, (len(classes), *shape)).astype(np.uint8) for _ in range(3)]
    made = Inverted(
        name="pixels",
        what="A search.",
        images=sides[0],
        classes=np.array(classes),
        sureness=np.arange(len(classes), dtype=float),
        recognised=Rate.of(1, len(classes)),
        nearer=Rate.of(2, 4),
        chance=0.6875,
        members=sides[1],
        fresh=sides[2],
        to_member=np.ones(len(classes)),
        to_fresh=np.ones(len(classes)),
    )
    return replace(made, **changes)


def inversion(*attacks: Inverted, names: tuple[str, ...] = ("cat", "dog", "owl")) -> Inversion:
    return Inversion(attacks, Rate.of(9, 10), ("Prototypes: none.",), names)


def decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def rendered(found: Inversion, *, records: bool = True) -> str:
    return render("audit_inversion.html", inversion=inversion_context(found, records=records))


@pytest.mark.parametrize(("channels", "side", "scale"), [(1, 8, 6), (3, 32, 2), (1, 64, 1)])
def test_a_grid_shows_every_pixel_enlarged(channels: int, side: int, scale: int):
    rows = [
        np.random.default_rng(n).integers(0, 256, (2, channels, side, side)).astype(np.uint8) for n in (0, 1)
    ]
    sheet = np.asarray(Image.open(io.BytesIO(picture_grid(rows))))
    step = scale * side + 4
    assert sheet.shape == (2 * step - 4, 2 * step - 4, 4)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            tile = sheet[row * step :, column * step :][: scale * side, : scale * side]
            wanted = np.broadcast_to(picture, (3, side, side)).transpose(1, 2, 0)
            assert (tile[scale // 2 :: scale, scale // 2 :: scale, :3] == wanted).all()
            assert (tile[..., 3] == 255).all()
    assert (sheet[scale * side : step, :, 3] == 0).all()  # gaps let dark and light pages through


def test_each_class_shows_its_surest_pictures():
    found = attack([0, 1, 2] * 7)
    context = inversion_context(inversion(found), records=True)["attacks"][0]
    sheet = decoded(context["picture"])
    assert sheet.shape == (3 * 52 - 4, 9 * 52 - 4, 4)  # three of each of three classes
    surest = [18, 15, 12, 19, 16, 13, 20, 17, 14]
    for row, side in enumerate((found.images, found.members, found.fresh)):
        for column, picture in enumerate(surest):
            tile = sheet[52 * row :, 52 * column :][3:48:6, 3:48:6, 0]
            assert (tile == side[picture, 0]).all()
    assert context["caption"].startswith(
        "9 of 21 pictures. From top: what the attack found; the nearest training"
    )
    assert context["caption"].endswith("From left: cat, cat, cat, dog, dog, dog, owl, owl, owl.")
    assert "3 by 9 pictures" in context["alt"] and "1 of 21 pictures are recognised" in context["alt"]
    assert "2 of 4 are nearer to a training record" in context["alt"]


def test_many_classes_get_as_many_columns_as_there_are():
    names = tuple(f"class {n}" for n in range(30))
    context = inversion_context(inversion(attack(list(range(30))), names=names), records=True)["attacks"][0]
    assert decoded(context["picture"]).shape[1] == 10 * 52 - 4 and "class 9." in context["caption"]


def test_the_page_needs_nothing_else_and_tells_pictures_in_words():
    text = rendered(
        inversion(attack([0, 1, 2]), attack([0, 1, 2], name="generators", nearer=None, chance=1.0))
    )
    assert (
        text.count("<img ") == text.count('src="data:image/png;base64,') == text.count(' alt="Grid of 3') == 2
    )
    assert (
        "http" not in text and "describes, and is no verdict" in text and "none is nearer to either" in text
    )
    assert "2 of 4, 50\N{NO-BREAK SPACE}%" in text and "Prototypes: none." in text
    assert "right about 90\N{NO-BREAK SPACE}% of fresh records" in text


def test_what_the_distances_say_counts_all_attacks_together():
    quiet, loud = attack([0, 1, 2], chance=0.03), attack([0, 1, 2], name="generators", chance=0.0001)
    both = inversion(quiet, replace(quiet, name="b"))
    assert "By none of the attacks" in inversion_context(both, records=True)["says"]
    said = inversion_context(inversion(replace(quiet, chance=0.2), loud), records=True)["says"]
    assert "look at them: generators." in said


def test_a_run_without_anything_to_invert_is_told():
    text = rendered(Inversion((), None, ("Method 'local' has no global model to invert.",), ()))
    assert "No attack was possible." in text and "<img" not in text and "has no global model" in text


def test_names_cannot_become_markup():
    text = rendered(inversion(attack([0, 1, 2]), names=("<b>", '"', "owl")))
    assert "<b>" not in text and "&lt;b&gt;" in text and "From left: &#34;" not in text


def test_of_private_data_no_real_record_is_shown():
    found = attack([0, 1, 2])
    context = inversion_context(inversion(found), records=False)
    (shown,) = context["attacks"]
    assert decoded(shown["picture"]).shape[0] == 48  # one row of 8 pixels, six times as large
    assert "nearest" not in shown["caption"] and "nearest" not in shown["alt"]
    text = rendered(inversion(found), records=False)
    assert "not shown" in text and "real ones of public data" not in text
