"""Public encoders: norm one, each record from itself alone, fixed by name, shape and seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mosaic_secure.models.encoders import build_encoder, centre_codes, encode, encoder_names

SHAPE = (1, 8, 8)
CASES = {
    "fourier": {"dim": 32},
    "scattering": {"dim": 32},
    "wavelets": {"dim": 32},
    "pixels": {"pixel_side": 4},
}
SHAPES = {"wavelets": (1, 16, 16)}


def images(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def build(name: str, seed: int = 3, shape: tuple[int, int, int] | None = None, **options):
    return build_encoder(name, shape or SHAPES.get(name, SHAPE), seed, **(CASES[name] | options))


def test_every_encoder_is_tested():
    assert set(CASES) == set(encoder_names())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_codes_have_norm_one_in_blocks_of_the_stated_shares(name, weight):
    encoder = build(name, pixel_side=4, pixel_weight=weight)
    codes = encode(encoder, images(6, encoder.image_shape))
    assert codes.shape == (6, encoder.dim) and codes.dtype == np.float32
    assert encoder.dim == encoder.feature_dim + encoder.pixel_dim
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1.0, atol=1e-5)
    if name != "pixels":
        features = np.linalg.norm(codes[:, : encoder.feature_dim], axis=1) ** 2
        np.testing.assert_allclose(features, 1.0 - weight, atol=1e-5)
        assert encoder.pixel_dim == (16 if weight else 0)


@pytest.mark.parametrize("name", CASES)
def test_a_code_depends_on_its_own_record_alone(name):
    encoder = build(name, pixel_side=4, pixel_weight=0.3)
    records = images(40, encoder.image_shape)
    together = encode(encoder, records)
    alone = np.concatenate([encode(encoder, records[i : i + 1]) for i in (0, 20, 39)])
    np.testing.assert_allclose(together[[0, 20, 39]], alone, atol=1e-5)
    changed = records.copy()
    changed[1:] = np.nan
    np.testing.assert_allclose(encode(encoder, changed)[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(encode(encoder, records, batch=7), together, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_no_records_give_no_codes_of_the_right_length(name):
    encoder = build(name)
    assert encode(encoder, images(0, encoder.image_shape)).shape == (0, encoder.dim)


@pytest.mark.parametrize("name", CASES)
def test_seed_and_name_fix_an_encoder_and_leave_the_global_stream_alone(name):
    state = torch.random.get_rng_state()
    first, second, other = build(name), build(name), build(name, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    records = images(3, first.image_shape)
    assert np.array_equal(encode(first, records), encode(second, records))
    assert np.array_equal(encode(first, records), encode(other, records)) == (name == "pixels")


@pytest.mark.parametrize("name", CASES)
def test_an_encoder_has_nothing_to_train_and_hides_nothing_in_saved_weights(name):
    encoder = build(name)
    assert not encoder.training
    assert not [p for p in encoder.parameters() if p.requires_grad]
    assert not encoder.state_dict()


@pytest.mark.parametrize("name", ["fourier", "pixels"])
def test_brightness_and_contrast_drop_out_of_standardised_pixels(name):
    encoder, records = build(name, pixel_side=4, pixel_weight=0.3), images(4)
    np.testing.assert_allclose(encode(encoder, 0.5 * records + 0.2), encode(encoder, records), atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_flat_records_have_finite_codes_within_the_ball(name):
    encoder = build(name, pixel_side=4, pixel_weight=0.3)
    flat = np.stack([np.zeros(encoder.image_shape), np.ones(encoder.image_shape)])
    codes = encode(encoder, flat.astype(np.float32))
    assert np.isfinite(codes).all()
    assert (np.linalg.norm(codes, axis=1) <= 1 + 1e-5).all()


def test_fourier_features_are_a_gaussian_kernel_of_standardised_pixels():
    """2048 random features: the largest error of 45 kernel values is below 0.1."""
    encoder = build("fourier", dim=4096)
    records = images(10)
    codes = encode(encoder, records)
    padded = np.pad(records[:, 0], ((0, 0), (1, 1), (1, 1)), mode="edge")
    side = np.exp(-0.5 / 0.3**2)
    taps = np.array([side, 1.0, side]) / (1 + 2 * side)
    smooth = sum(
        taps[i] * taps[j] * padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)
    ).reshape(10, -1)
    flat = smooth - smooth.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    distance = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    np.testing.assert_allclose(codes @ codes.T, np.exp(-distance), atol=0.1)


@pytest.mark.parametrize("name", ["scattering", "wavelets"])
def test_a_projection_is_onto_orthonormal_directions(name):
    frame = build(name).features.frame
    assert torch.allclose(frame.T @ frame, torch.eye(32), atol=1e-4)


def test_scattering_has_no_more_features_than_coefficients():
    assert build("scattering", dim=1000).feature_dim == 9 * 16


def test_images_come_back_from_their_pixels_at_full_range():
    records = torch.from_numpy(images(3, (2, 8, 8)))
    encoder = build("pixels", shape=(2, 8, 8), pixel_side=8)
    back = encoder.images_from_pixels(encoder(records))
    low, high = records.amin((1, 2, 3), keepdim=True), records.amax((1, 2, 3), keepdim=True)
    assert torch.allclose(back, (records - low) / (high - low), atol=1e-4)
    coarse = build("pixels", shape=(2, 8, 8), pixel_side=4)
    larger = coarse.images_from_pixels(coarse(records))
    assert larger.shape == records.shape and float(larger.min()) >= 0 and float(larger.max()) <= 1
    assert torch.isfinite(coarse.images_from_pixels(torch.zeros(1, 32))).all()


def test_centred_codes_have_norm_one_and_never_mix():
    codes = encode(build("fourier"), images(5))
    centre = codes.mean(0)
    moved = centre_codes(codes, centre)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(centre_codes(codes[2:3], centre), moved[2:3])
    assert np.isfinite(centre_codes(codes, codes[0])).all()
    assert centre_codes(codes[:0], centre).shape == (0, 32)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "wavelet"}, "encoder: 'wavelet' is unknown; one of fourier, scattering, wavelets, pixels"),
        ({"name": "wavelets"}, "wavelets take images of 16x16 pixels or more, got 8x8"),
        ({"name": "wavelets", "image_shape": (1, 16, 16), "dim": 1025}, "at most 1024 directions, got 1025"),
        ({"name": "fourier", "dim": 7}, "dim"),
        ({"name": "fourier", "dim": 8, "pixel_side": 4, "pixel_weight": 1.0}, "pixel_weight"),
        ({"name": "scattering", "image_shape": (1, 16, 12)}, "square"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        build_encoder(**({"image_shape": SHAPE, "seed": 0} | arguments))


@pytest.mark.parametrize("name", ["scattering", "fourier"])
def test_features_of_averaged_images_are_those_of_small_images_and_blind_to_finer_detail(name):
    rng = torch.Generator().manual_seed(0)
    small = torch.rand(3, 1, 8, 8, generator=rng)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    checks = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(8, 8)  # has mean zero in every cell
    encoder = build_encoder(name, (1, 16, 16), seed=0, dim=32, feature_side=8)
    wanted = build_encoder(name, (1, 8, 8), seed=0, dim=32)(small)
    assert encoder.dim == 32
    torch.testing.assert_close(encoder(large), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(large + checks), wanted, atol=1e-4, rtol=1e-3)
