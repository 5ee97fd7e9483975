"""The plan: what follows from configuration and budget, and that nothing else is let in."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.data.records import DataInfo
from mosaic_secure.errors import UserError
from mosaic_secure.models.registry import build_classifier, build_generator, parameter_count
from mosaic_secure.plan import RunPlan, build_plan
from mosaic_secure.release_requests import release_requests
from privacy.accounting import SubsampledGaussianEvent
from privacy.budget import BudgetPlan, PlannedRelease, plan_budget
from privacy.canonical import canonical_json
from privacy.errors import BudgetError, PrivacyError

SHAPES = [(1, 8, 8), (3, 12, 12), (1, 16, 16), (1, 28, 28), (3, 32, 32)]


def config(**overrides) -> RunConfig:
    """The digits without noise (so that nothing is calibrated), and dotted overrides with __ for dots."""
    return load_config(
        "digits", {"privacy.epsilon": "inf"} | {k.replace("__", "."): v for k, v in overrides.items()}
    )


def noisy(made: BudgetPlan, noise: float) -> BudgetPlan:
    """The same plan under some noise; its epsilon is not what that noise costs."""
    releases = tuple(dataclasses.replace(r, noise_multiplier=noise) for r in made.releases)
    return dataclasses.replace(made, releases=releases)


def plan_of(settings: RunConfig, noise: float = 0.0) -> RunPlan:
    budget = plan_budget(settings.privacy.epsilon, settings.privacy.delta, release_requests(settings))
    return RunPlan.derive(settings, noisy(budget, noise) if noise else budget)


def test_shares_of_all_requests_add_up_and_follow_the_configuration():
    settings = config(prototypes__rounds=3, prototypes__gradient_share=0.7, classifier__rounds=3)
    requests = {r.name: r for r in release_requests(settings)}
    assert list(requests) == ["counts", "centre", "moments", "gradient", "classifier", "generator"]
    assert math.fsum(r.share for r in requests.values()) == pytest.approx(1)
    shares = settings.privacy.shares
    prototypes = [requests[name].share for name in ("centre", "moments", "gradient")]
    assert math.fsum(prototypes) == pytest.approx(shares.prototypes)
    assert requests["gradient"].share == pytest.approx(0.7 * shares.prototypes)
    assert (requests["gradient"].rounds, requests["classifier"].rounds) == (3, 3)


def test_fine_tuning_is_asked_for_with_the_steps_of_all_its_rounds():
    settings = config(
        fine_tune__rounds=4,
        fine_tune__steps=5,
        privacy__shares={
            "prototypes": 0.5,
            "counts": 0.1,
            "classifier": 0.15,
            "generator": 0.15,
            "fine_tune": 0.1,
        },
    )
    request = release_requests(settings)[-1]
    assert (request.name, request.rounds, request.steps) == ("fine_tune", 4, 20)
    assert plan_of(settings).dpsgd("fine_tune", 100).steps == 5


def test_parts_that_are_off_are_not_asked_for():
    settings = config(
        generator__enabled=False,
        prototypes__centre_share=0.0,
        prototypes__rounds=0,
        prototypes__gradient_share=0.0,
        privacy__shares={"prototypes": 0.6, "counts": 0.1, "classifier": 0.3, "generator": 0.0},
    )
    assert [r.name for r in release_requests(settings)] == ["counts", "moments", "classifier"]
    made = plan_of(settings)
    assert [r.round_id for r in made.rounds] == ["moments-0"]
    assert made.release("generator") is None


def test_the_budget_survives_the_wire_and_is_accepted():
    settings = config()
    sent = json.loads(canonical_json(plan_of(settings).budget.to_dict()))
    kept = RunConfig.from_dict(json.loads(canonical_json(settings.to_dict())))
    made = RunPlan.derive(kept, BudgetPlan.from_dict(sent))
    assert made.config_hash == plan_of(settings).config_hash
    assert made.rounds == plan_of(settings).rounds


def _changed(budget: BudgetPlan, index: int, **fields) -> BudgetPlan:
    releases = list(budget.releases)
    releases[index] = dataclasses.replace(releases[index], **fields)
    return dataclasses.replace(budget, releases=tuple(releases))


def _swapped_shares(budget: BudgetPlan) -> BudgetPlan:
    first, *between, last = budget.releases
    swapped = dataclasses.replace(first, share=last.share), dataclasses.replace(last, share=first.share)
    return dataclasses.replace(budget, releases=(swapped[0], *between, swapped[1]))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: dataclasses.replace(b, delta=1e-5),
        lambda b: dataclasses.replace(b, target_epsilon=8.0),
        lambda b: dataclasses.replace(b, releases=b.releases[::-1]),
        lambda b: _changed(b, 0, name="extra"),
        lambda b: _changed(b, 1, rounds=2),
        lambda b: _changed(b, -1, steps=b.releases[-1].steps + 1),
        lambda b: _changed(b, -1, sample_rate=0.9),
        lambda b: _changed(b, -1, kind="gaussian", steps=None, sample_rate=None),
        lambda b: _swapped_shares(b),
        lambda b: dataclasses.replace(
            b,
            releases=(
                *(dataclasses.replace(r, share=r.share / 2) for r in b.releases),
                PlannedRelease("extra", 0.5, "gaussian"),
            ),
        ),
    ],
)
def test_a_budget_that_is_not_the_configurations_is_refused(change):
    settings = config()
    with pytest.raises(UserError, match="plan: its"):
        RunPlan.derive(settings, change(plan_of(settings).budget))


def test_rounds_are_named_numbered_and_as_long_as_their_statistics():
    made = plan_of(config(prototypes__rounds=2, prototypes__gradient_share=0.5, prototypes__dim=6))
    dim, classes = made.code_dim, made.num_classes
    assert [(r.round_id, r.release, r.round) for r in made.rounds] == [
        ("centre-0", "centre", 0),
        ("moments-0", "moments", 0),
        ("gradient-0", "gradient", 0),
        ("gradient-1", "gradient", 1),
    ]
    moments = classes + dim * classes + dim * (dim + 1) // 2
    assert [r.length for r in made.rounds] == [dim, moments, dim * classes, dim * classes]
    assert made.round("gradient-1") is made.rounds[3]
    with pytest.raises(UserError, match="gradient-2"):
        made.round("gradient-2")


def test_without_second_moments_the_moments_round_has_counts_and_class_sums_alone():
    made = plan_of(config(prototypes__second_moments=False))
    kinds = [s.kind for s in made.round("moments-0").mechanism.statistics]
    assert kinds == ["counts", "class_sums"]


def test_each_mechanism_carries_the_noise_multiplier_of_its_release():
    settings = config(prototypes__rounds=2, prototypes__gradient_share=0.5)
    budget = plan_budget(math.inf, settings.privacy.delta, release_requests(settings))
    releases = tuple(dataclasses.replace(r, noise_multiplier=1.0 + i) for i, r in enumerate(budget.releases))
    made = RunPlan.derive(settings, dataclasses.replace(budget, releases=releases))
    for item in made.rounds:
        planned = made.release(item.release)
        assert item.mechanism.event == planned.round_event
    assert made.counts.event == made.release("counts").round_event
    trained = made.dpsgd("classifier", 500)
    planned = made.release("classifier")
    assert trained.event == planned.round_event
    assert isinstance(trained.event, SubsampledGaussianEvent)


def test_only_encrypted_sums_share_noise_and_the_counts_in_the_clear_never_do():
    shared = plan_of(config(privacy__trust="distributed", privacy__honest_clients=3), noise=2.0)
    assert {r.mechanism.honest for r in shared.rounds} == {3}
    assert shared.counts.honest == 1
    alone = plan_of(config(), noise=2.0)
    assert {r.mechanism.honest for r in alone.rounds} == {1}


def test_sums_are_fitted_into_the_encryption():
    made = plan_of(config(), noise=3.0)
    for item in made.rounds:
        assert item.mechanism.limit * made.config.clients.count <= made.ckks.max_sum
    with pytest.raises(PrivacyError, match="overflow"):
        plan_of(config(data__declared_records=10**9)).rounds  # noqa: B018


def test_dpsgd_divides_by_declared_records_and_splits_its_steps_over_rounds():
    made = plan_of(config(classifier__steps=30, classifier__rounds=3, classifier__sample_rate=0.25))
    trained = made.dpsgd("classifier", 400)
    assert trained.expected_batch_size == 100
    assert (trained.sample_rate, trained.steps) == (0.25, 10)
    other = made.dpsgd("classifier", 800)
    assert other.expected_batch_size == 200
    assert dataclasses.replace(other, expected_batch_size=100.0) == trained


def test_a_classifier_learns_at_the_rate_of_its_architecture():
    made = plan_of(config(classifier__learning_rates={"mlp": 0.75}, classifier__learning_rate=0.25))
    assert made.dpsgd("classifier", 400, "mlp").learning_rate == 0.75
    assert made.dpsgd("classifier", 400, "cnn").learning_rate == 0.25


def test_the_cost_counts_the_weights_that_a_client_sends_in_each_round():
    def sent(**changes) -> int:
        return plan_of(config(clients__architectures=("mlp",), **changes)).cost()["model_bytes_per_client"]

    both = sent()
    classifier = sent(classifier__rounds=2) - both
    assert classifier == 4 * parameter_count(build_classifier("mlp", (1, 8, 8), 10, seed=0))
    assert both - classifier == 4 * parameter_count(build_generator("dcgan", (1, 8, 8), 10, 0, latent_dim=32))


def test_the_discriminator_has_its_own_learning_rate_and_no_average():
    made = plan_of(config(generator__discriminator_learning_rate=0.125, generator__ema_decay=0.5))
    trained = made.dpsgd("generator", 100)
    assert (trained.learning_rate, trained.ema_decay) == (0.125, 0.0)


def test_an_encoder_that_takes_no_such_images_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match="'wavelets': takes images of 16x16 pixels or more, not 8x8; use"):
        plan_of(config(prototypes__encoder="wavelets"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "prototypes",
    [
        {"encoder": "fourier", "dim": 10, "pixel_weight": 0.3, "image_size": 8},
        {"encoder": "fourier", "dim": 10, "pixel_weight": 0.0, "image_size": 8},
        {"encoder": "scattering", "dim": 12, "pixel_weight": 0.3, "image_size": 16},
        {"encoder": "scattering", "dim": 150, "pixel_weight": 0.0, "image_size": 4},
        {"encoder": "scattering", "dim": 4096, "pixel_weight": 0.2, "image_size": 5, "feature_size": 8},
        {"encoder": "wavelets", "dim": 12, "pixel_weight": 0.3, "image_size": 16},
        {"encoder": "pixels", "pixel_weight": 0.3, "image_size": 5},
        {"encoder": "pixels", "pixel_weight": 0.0, "image_size": 64},
    ],
    ids=lambda p: f"{p['encoder']}-{p['pixel_weight']}-{p['image_size']}",
)
def test_code_dim_is_the_length_of_the_codes_that_the_encoder_makes(shape, prototypes):
    import numpy as np

    from mosaic_secure.models.encoders import encode

    settings = config(**{f"prototypes__{name}": value for name, value in prototypes.items()})
    if settings.prototypes.encoder == "wavelets" and shape[-1] < 16:
        pytest.skip("too small for wavelets")
    budget = plan_budget(math.inf, settings.privacy.delta, release_requests(settings))
    made = RunPlan(settings, budget, DataInfo("test", shape, ("a", "b"), "public"))
    encoder = made.encoder()
    codes = encode(encoder, np.random.default_rng(0).random((2, *shape), dtype=np.float32))
    assert codes.shape == (2, made.code_dim)
    assert encoder.dim == made.code_dim
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1.0, atol=1e-5)


def test_an_odd_number_of_fourier_features_is_a_user_error_before_anything_is_sent():
    with pytest.raises(UserError, match=r"prototypes\.dim = 255"):
        plan_of(config(prototypes__encoder="fourier", prototypes__dim=255))


@pytest.mark.parametrize(
    ("declared", "total"),
    [(None, 1437), (200, 1000), ({f"client-{i}": 10 * (i + 1) for i in range(5)}, 150)],
)
def test_the_bound_of_a_sum_comes_from_declared_records(declared, total):
    settings = config() if declared is None else config(data__declared_records=declared)
    assert plan_of(settings).total_records == total


def test_building_a_plan_reads_no_record(monkeypatch):
    from mosaic_secure.data import datasets

    def forbidden(*_, **__):
        raise AssertionError("a record was read")

    monkeypatch.setattr(datasets, "read_train", forbidden)
    monkeypatch.setattr("mosaic_secure.data.clients.read_train", forbidden)
    made = build_plan(config(prototypes__rounds=0, prototypes__gradient_share=0.0))
    assert (made.image_shape, made.num_classes) == ((1, 8, 8), 10)
    assert made.rounds and made.counts and made.cost()["encrypted_rounds"] == 2


def test_the_cost_counts_ciphertexts_and_bytes():
    made = plan_of(config(prototypes__dim=100))
    slots = made.ckks.slots
    full = sum(math.ceil(r.length / slots) for r in made.rounds)
    assert made.cost()["ciphertexts_per_client"] == full
    assert made.cost()["upload_bytes_per_client"] == full * made.ckks.ciphertext_bytes


def test_the_description_has_one_row_a_release():
    made = plan_of(config())
    rows = made.describe()
    assert [row["release"] for row in rows] == [r.name for r in made.budget.releases]
    assert {row["release"]: row["mechanism"] for row in rows}["generator"] == "DP-SGD"


def test_steps_that_do_not_divide_into_rounds_are_refused():
    with pytest.raises((BudgetError, UserError), match="steps"):
        build_plan(config(classifier__steps=10, classifier__rounds=3))
