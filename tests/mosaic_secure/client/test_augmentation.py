"""Views come from their own record alone and keep its label."""

from __future__ import annotations

import pytest
import torch

from mosaic_secure.client.augmentation import image_views
from mosaic_secure.errors import UserError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 2, 5, 7, generator=generator()), torch.arange(count)


def test_shapes_labels_and_first_view():
    images, labels = batch()
    views, repeated = image_views(4, shift=1, flip=True)((images, labels), generator())
    assert views.shape == (6, 4, 2, 5, 7)
    assert torch.equal(views[:, 0], images)
    assert torch.equal(repeated, labels[:, None].expand(6, 4))


def test_changing_one_record_changes_its_own_views_only():
    images, labels = batch()
    changed = images.clone()
    changed[2] = 9.0
    augment = image_views(5, shift=2, flip=True)
    before, after = augment((images, labels), generator())[0], augment((changed, labels), generator())[0]
    same = (before == after).flatten(1).all(1)
    assert same.tolist() == [True, True, False, True, True, True]


def test_each_view_is_a_shift_or_a_mirror_of_the_record():
    images, labels = batch(3)
    views = image_views(40, shift=1, flip=True)((images, labels), generator())[0]
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for record in range(3):
        options = {
            (dy, dx, mirrored): (crop.flip(-1) if mirrored else crop)
            for dy in range(3)
            for dx in range(3)
            for mirrored in (False, True)
            for crop in [padded[record, :, dy : dy + 5, dx : dx + 7]]
        }
        for view in views[record]:
            matches = [name for name, option in options.items() if torch.equal(option, view)]
            assert matches
            seen.update(matches)
    assert len(seen) == 18


def test_without_shift_and_flip_views_are_copies():
    images, labels = batch()
    views = image_views(2)((images, labels), generator())[0]
    assert torch.equal(views[:, 1], images)


def test_one_view_is_no_augmentation_and_bad_values_are_named():
    assert image_views(1, shift=3) is None
    with pytest.raises(UserError, match="augmentations"):
        image_views(0)
    with pytest.raises(UserError, match="shift"):
        image_views(2, shift=-1)
