"""From releases to a global model: post-processing, fixed by the seed, whichever parts are on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mosaic_secure.client.training import initial_classifier, weights_of
from mosaic_secure.config import load_config
from mosaic_secure.data.records import DataInfo
from mosaic_secure.models.encoders import centre_codes, encode
from mosaic_secure.models.registry import build_generator
from mosaic_secure.plan import RunPlan
from mosaic_secure.release_requests import release_requests
from mosaic_secure.server import assembly, fresh_student
from mosaic_secure.server.assembly import Parts, Releases, assemble
from mosaic_secure.server.experts import Memory
from mosaic_secure.server.prototypes import start, take_centre, take_moments
from mosaic_secure.server.worth import worth
from privacy.budget import plan_budget
from privacy.randomness import NoiseSource

SHAPE, CLASSES = (1, 8, 8), 3
OWNERS = {"client-0": "mlp", "client-1": "scatter_head", "client-2": "mlp"}
SMALL = {
    "privacy.epsilon": "inf",
    "clients.count": 3,
    "clients.architectures": "mlp,scatter_head,mlp",
    "prototypes.dim": 32,
    "prototypes.image_size": 8,
    "generator.latent_dim": 4,
    "gate.steps": 10,
    "gate.batch": 32,
    "distill.steps": 30,
    "distill.batch": 32,
    "distill.synthetic_pool": 90,
}


def plan(**overrides) -> RunPlan:
    settings = load_config("digits", SMALL | {k.replace("__", "."): v for k, v in overrides.items()})
    budget = plan_budget(math.inf, settings.privacy.delta, release_requests(settings))
    return RunPlan(settings, budget, DataInfo("test", SHAPE, tuple("abc"), "public"))


def records(count: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = 0.4 * rng.random((count, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[0, 1:7, 2 * label : 2 * label + 2] += 0.6
    return images.astype(np.float32), labels


def releases(made: RunPlan) -> Releases:
    """Exact moments; classifiers and generators as they start."""
    images, labels = records()
    codes, counts = encode(made.encoder(), images), np.bincount(labels, minlength=CLASSES).astype(float)
    state = take_centre(start(made.code_dim, CLASSES), codes.sum(0), len(codes))
    moments = made.round("moments-0").mechanism
    source = NoiseSource(bytes(32), "test")
    decoded = moments.decode(moments.release(centre_codes(codes, state.centre), labels, source))
    state = take_moments(state, decoded, counts, moments, 1, made.config.prototypes)
    trained, generators = {}, {}
    for seed, (client, architecture) in enumerate(OWNERS.items()):
        model = initial_classifier(made.config, architecture, SHAPE, CLASSES)
        weights = {name: value + 0.01 * seed for name, value in weights_of(model).items()}
        trained[client] = (architecture, weights)
        generator = build_generator("dcgan", SHAPE, CLASSES, seed, latent_dim=4)
        generators[client] = {name: value.numpy() for name, value in generator.state_dict().items()}
    return Releases(state, None, {client: counts / 3 for client in OWNERS}, trained, generators)


@pytest.fixture(scope="module")
def made() -> RunPlan:
    return plan()


@pytest.fixture(scope="module")
def received(made: RunPlan) -> Releases:
    return releases(made)


def state_of(result) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_global_model_that_knows_the_classes_comes_out(made, received):
    result = assemble(made, received, Parts.of(made), test=records(60, seed=1))
    assert result.scores["global"] > 0.9
    assert set(result.scores) == {f"experts/{n}" for n in result.mixture.names} | {"teacher", "global"}
    assert result.mixture.names == (
        "prototype",
        "mlp/class-0",
        "mlp/class-1",
        "mlp/class-2",
        "scatter_head/client-1",
    )
    assert set(result.generators) == set(OWNERS)
    assert not result.model.training


def test_the_same_releases_and_seed_give_the_same_model_whatever_torchs_own_stream(made, received):
    found = []
    for stream in (1, 2):
        torch.manual_seed(stream)
        state = torch.random.get_rng_state()
        found.append(state_of(assemble(made, received, Parts.of(made))))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert same(*found)
    # The encoder is of the releases and stays; only what the server draws changes with its seed.
    other = dataclasses.replace(
        received, state=dataclasses.replace(received.state, weights=-received.state.weights)
    )
    assert not same(found[0], state_of(assemble(made, other, Parts.of(made))))


def test_the_test_part_is_scored_and_never_learnt_from(made, received):
    blind = assemble(made, received, Parts.of(made))
    seeing = assemble(made, received, Parts.of(made), test=records(30, seed=2))
    assert blind.scores == {} and seeing.scores
    assert same(state_of(blind), state_of(seeing))


def test_codes_that_expert_and_student_share_give_the_model_of_codes_of_their_own(
    made, received, monkeypatch
):
    test = records(60, seed=1)
    together = assemble(made, received, Parts.of(made), test=test)
    monkeypatch.setattr(assembly, "same_trunk", lambda _: False)
    apart = assemble(made, received, Parts.of(made), test=test)
    for name, value in state_of(together).items():
        assert torch.allclose(value, state_of(apart)[name], atol=1e-5), name
    assert together.scores == pytest.approx(apart.scores, abs=1e-9)


@pytest.mark.parametrize("options", [{"hidden": 4}, {"encoder": "fourier"}])
def test_only_a_student_with_the_experts_own_encoder_shares_its_codes(made, received, options):
    chosen = made.config.global_model.model_copy(update={"options": options})
    other = dataclasses.replace(made, config=made.config.model_copy(update={"global_model": chosen}))
    assert assembly.same_trunk(made)
    assert assembly.same_trunk(other) == (options == {"hidden": 4})


def test_assembling_leaves_the_releases_as_they_were(made, received):
    before = {
        client: {name: value.copy() for name, value in weights.items()}
        for client, (_, weights) in received.classifiers.items()
    }
    weights = received.state.weights.copy()
    assemble(made, received, Parts.of(made))
    np.testing.assert_array_equal(received.state.weights, weights)
    for client, (_, kept) in received.classifiers.items():
        for name, value in kept.items():
            np.testing.assert_array_equal(value, before[client][name])


@pytest.mark.parametrize(
    ("off", "names"),
    [
        ("prototype_expert", ("mlp/class-0", "mlp/class-1", "mlp/class-2", "scatter_head/client-1")),
        ("class_experts", ("prototype", "mlp/average", "scatter_head/client-1")),
        ("gate", None),
        ("sampler", None),
        ("generators", None),
        ("distillation", None),
    ],
)
def test_every_part_can_be_switched_off(made, received, off, names):
    full = Parts.of(made)
    result = assemble(made, received, dataclasses.replace(full, **{off: False}))
    if names is not None:
        assert result.mixture.names == names
    logits = result.model(torch.from_numpy(records(5)[0]))
    assert logits.shape == (5, CLASSES) and bool(torch.isfinite(logits).all())
    if off == "distillation":
        assert result.facts["distilled_on"] == 0


def test_balance_takes_the_share_of_a_class_off_its_logit_and_nothing_else(made, received):
    skewed = dataclasses.replace(
        received, state=dataclasses.replace(received.state, counts=np.array([70.0, 20.0, 10.0]))
    )
    found = {}
    for balance in (0.0, 0.5, 1.0):
        chosen = plan(prototypes__balance=balance, distill__enabled=False)
        found[balance] = state_of(assemble(chosen, skewed, Parts.of(chosen)))
    assert torch.equal(found[0.0]["head.linear.bias"], torch.zeros(CLASSES))
    for balance in (0.5, 1.0):
        wanted = -balance * np.log([0.7, 0.2, 0.1])
        assert found[balance]["head.linear.bias"].numpy() == pytest.approx(wanted, abs=1e-6)
        assert torch.equal(found[balance]["head.linear.weight"], found[0.0]["head.linear.weight"])


def test_without_distillation_a_prototype_head_is_the_prototype_expert(made, received):
    result = assemble(made, received, dataclasses.replace(Parts.of(made), distillation=False))
    images = torch.from_numpy(records(6)[0])
    wanted = result.mixture.log_probabilities(images)[:, 0]
    assert torch.allclose(result.model(images).log_softmax(-1), wanted, atol=1e-5)
    encoder, centre = made.encoder(), received.state.centre
    linear = centre_codes(encode(encoder, images.numpy()), centre) @ received.state.weights
    np.testing.assert_allclose(wanted.numpy(), torch.from_numpy(linear).log_softmax(-1).numpy(), atol=1e-4)


def test_a_run_of_prototypes_alone_has_one_expert_and_no_gate():
    alone = plan(
        classifier__enabled=False,
        generator__enabled=False,
        experts__class_experts=False,
        privacy__shares={"prototypes": 0.9, "counts": 0.1, "classifier": 0, "generator": 0},
    )
    given = dataclasses.replace(releases(plan()), classifiers={}, generators={})
    result = assemble(alone, given, Parts.of(alone), test=records(30, seed=1))
    assert result.mixture.names == ("prototype",)
    assert result.scores["global"] > 0.9


def test_a_run_without_prototypes_learns_from_generators_alone(received):
    bare = plan(
        prototypes__enabled=False,
        experts__prototype_expert=False,
        global_model__architecture="mlp",
        privacy__shares={"prototypes": 0, "counts": 0.1, "classifier": 0.5, "generator": 0.4},
    )
    result = assemble(bare, dataclasses.replace(received, state=None), Parts.of(bare))
    assert result.mixture.names[0] == "mlp/class-0"
    assert all(torch.isfinite(value).all() for value in state_of(result).values())


def test_generators_that_no_expert_agrees_with_leave_the_gate_out(received, monkeypatch):
    bare = plan(
        prototypes__enabled=False,
        experts__prototype_expert=False,
        global_model__architecture="mlp",
        privacy__shares={"prototypes": 0, "counts": 0.1, "classifier": 0.5, "generator": 0.4},
    )
    draw = assembly.draw_from_generators

    def contrary(*args):
        images, labels = draw(*args)
        return images, torch.full_like(labels, -100)

    monkeypatch.setattr(assembly, "draw_from_generators", contrary)
    result = assemble(bare, dataclasses.replace(received, state=None), Parts.of(bare))
    assert all(torch.isfinite(value).all() for value in state_of(result).values())


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_synthetic_records_may_come_from_one_source_though_both_are_there(received, part):
    one_sided = plan(distill__generator_part=part, distill__steps=2)
    result = assemble(one_sided, received, Parts.of(one_sided))
    assert result.facts["synthetic_records"] == 90 + CLASSES


def test_negative_noised_counts_are_no_obstacle(made, received):
    noised = {client: np.array([-5.0, 3.0, -1.0]) for client in OWNERS}
    result = assemble(made, dataclasses.replace(received, counts=noised), Parts.of(made))
    assert all(torch.isfinite(value).all() for value in state_of(result).values())


def test_the_ablation_leaves_one_part_out_at_a_time_and_counts_from_the_whole(monkeypatch):
    monkeypatch.setattr(fresh_student, "_LEAST_STEPS", 5)
    quick = plan(gate__steps=2, distill__steps=2, distill__synthetic_pool=30)
    told: list[str] = []
    rows = worth(quick, releases(quick), "cpu", records(30, seed=1), told.append)
    assert len(told) == len(rows)
    whole, *others = rows
    assert whole["worth"] is None and 0 <= whole["fresh_cnn"] <= 1
    scored = {row["without"] for row in others if row["fresh_cnn"] is not None}
    assert scored == {"sampler", "generators"}  # what decides which synthetic records there are
    names = {f.name.replace("_", " ") for f in dataclasses.fields(Parts)} - {"fresh student"}
    assert {row["without"] for row in others} == names
    for row in others:
        assert row["worth"] == pytest.approx(whole["global_model"] - row["global_model"], abs=1e-4)
    made = releases(quick)
    remembered = worth(quick, made, "cpu", records(30, seed=1))
    monkeypatch.setattr(Memory, "recall", lambda _, what, images, make: make())
    assert worth(quick, made, "cpu", records(30, seed=1)) == remembered
    unscored = worth(quick, releases(quick), "cpu", None)
    assert {row["worth"] for row in unscored} == {None}
