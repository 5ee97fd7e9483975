"""The wavelet encoder: what it computes, from a seed alone, the same wherever it is built."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from torch.nn import functional

import mosaic_secure
from mosaic_secure.models import encoders
from mosaic_secure.models.encoders import ScatteringFeatures, WaveletFeatures, build_encoder, encode
from mosaic_secure.models.gabor import GaborFeatures
from mosaic_secure.models.procedural import procedural_images
from mosaic_secure.models.projections import principal_frame, random_frame

SHAPE, DIM = (1, 16, 16), 24


def built_again(seed: int = 5, shape: tuple[int, int, int] = SHAPE) -> encoders.Encoder:
    """As in another process: nothing is remembered."""
    encoders._wavelet_frame.cache_clear()
    return build_encoder("wavelets", shape, seed, DIM, pixel_side=4, pixel_weight=0.2)


def test_clients_and_server_build_the_same_encoder_up_to_rounding(monkeypatch: pytest.MonkeyPatch):
    records = procedural_images(20, SHAPE, 9)
    first = encode(built_again(), records)
    assert np.array_equal(first, encode(built_again(), records))
    # Another machine rounds otherwise: by as much as a float32 holds, at worst.
    exact = WaveletFeatures.forward

    def rounded(self, images):
        found = exact(self, images)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
        return found + 1e-7 * noise * found.abs().max()

    monkeypatch.setattr(WaveletFeatures, "forward", rounded)
    np.testing.assert_allclose(first, encode(built_again(), records), atol=1e-4)
    monkeypatch.undo()
    assert np.abs(first - encode(built_again(seed=6), records)).max() > 0.05


def test_a_frame_is_computed_once_a_process_and_not_shared_with_a_module():
    first, second = built_again(), build_encoder("wavelets", SHAPE, 5, DIM)
    assert encoders._wavelet_frame.cache_info()[:2] == (1, 1)  # hits, misses
    first.features.frame.zero_()
    assert second.features.frame.abs().max() > 0
    assert build_encoder("wavelets", SHAPE, 5, DIM).features.frame.abs().max() > 0


def test_no_file_is_read(monkeypatch: pytest.MonkeyPatch):
    built_again()  # what Python itself loads late is loaded by now

    def refuse(*_args, **_options):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(np, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    built_again()


def test_a_code_is_the_centred_features_on_the_frame():
    records = torch.from_numpy(procedural_images(8, SHAPE, 2))
    encoder = build_encoder("wavelets", SHAPE, 5, DIM)
    features = torch.cat([ScatteringFeatures(SHAPE)(records), GaborFeatures(SHAPE)(records)], 1) / 2**0.5
    mean, frame = principal_frame(WaveletFeatures(SHAPE), SHAPE, DIM, 5)
    wanted = functional.normalize((features - mean) @ frame, dim=1)
    assert torch.allclose(encoder(records), wanted, atol=1e-5)


def test_principal_directions_hold_more_of_other_images_than_random_ones():
    features = WaveletFeatures(SHAPE)
    mean, frame = principal_frame(features, SHAPE, DIM, 5)
    moved = functional.normalize(features(torch.from_numpy(procedural_images(200, SHAPE, 6))) - mean, dim=1)
    _, _, best = torch.linalg.svd(moved, full_matrices=False)

    def held(directions: torch.Tensor) -> float:
        return float(((moved @ directions) ** 2).sum() / len(moved))

    assert held(frame) > 0.9 * held(best[:DIM].T)
    assert held(random_frame(features.dim, DIM, 5)) < 0.1


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 30, 30)], ids=str)
def test_gabor_features_have_norm_one_and_pool_as_windows_do(shape):
    records = torch.from_numpy(procedural_images(3, shape, 1))
    module = GaborFeatures(shape)
    found = module(records)
    assert found.shape == (3, module.dim)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    side = len(module.average)
    pooled = module.average @ records @ module.average.T
    assert torch.allclose(pooled, functional.adaptive_avg_pool2d(records, side), atol=1e-6)


def test_a_gabor_filter_answers_waves_of_its_angle_and_none_to_flat_images():
    x = torch.arange(32.0).expand(32, 32)
    wave = 0.5 + 0.5 * torch.cos(2 * torch.pi * x / 5.3)
    module = GaborFeatures((1, 32, 32))

    def strength(image: torch.Tensor) -> torch.Tensor:
        """[3 wavelengths, 8 angles], away from the borders."""
        moduli = functional.conv2d(image[None, None], module.filters).unflatten(1, (-1, 2))
        return moduli.square().sum(2).sqrt().mean((0, 2, 3)).view(3, 8)

    assert strength(wave).argmax() == 8  # the second wavelength, the first angle
    assert strength(wave.T).argmax() == 12  # a quarter turn further
    # The real part has mean zero, the imaginary part is odd.
    assert strength(torch.ones(32, 32)).max() < 1e-3 * strength(wave).max()


@pytest.mark.parametrize("channels", [1, 3])
def test_procedural_images_are_fixed_by_their_seed_and_various(channels):
    shape = (channels, 20, 20)
    made = procedural_images(30, shape, 4)
    assert made.dtype == np.float32 and made.shape == (30, *shape)
    assert made.min() >= 0 and made.max() <= 1
    assert np.array_equal(made, procedural_images(30, shape, 4))
    assert np.array_equal(made[:10], procedural_images(10, shape, 4))
    assert not np.array_equal(made, procedural_images(30, shape, 5))
    assert np.median(made.std((1, 2, 3))) > 0.1
    if channels == 3:  # shapes are tinted
        assert np.abs(made[:, 0] - made[:, 1]).max() > 0.1


def test_a_saved_model_predicts_the_same_with_an_encoder_that_is_built_again(write_small_run, tmp_path):
    options = {"encoder": "wavelets", "dim": DIM, "pixel_side": 4, "pixel_weight": 0.2, "encoder_seed": 5}
    run = write_small_run(tmp_path / "run", architecture="prototype_head", image_shape=SHAPE, **options)
    images = procedural_images(12, SHAPE, 3)
    probabilities = []
    for _ in range(2):
        encoders._wavelet_frame.cache_clear()
        predictor = mosaic_secure.load(run)
        torch.nn.init.normal_(predictor.module.head.linear.weight, generator=torch.Generator().manual_seed(0))
        probabilities.append(predictor.predict_proba(images))
    np.testing.assert_allclose(*probabilities, atol=1e-5)
    assert len(set(probabilities[0].argmax(1))) > 1


def test_a_record_has_the_same_moduli_in_a_batch_of_any_size():
    records = torch.from_numpy(procedural_images(40, (1, 28, 28), 2))
    features = GaborFeatures((1, 28, 28))
    alone = torch.cat([features(record[None]) for record in records])
    assert torch.allclose(features(records), alone, atol=1e-6)
    assert features(records[:0]).shape == (0, features.dim)
