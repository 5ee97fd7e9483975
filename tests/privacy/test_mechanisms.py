"""The Gaussian mechanism on clipped sums: sensitivity, clipping, noise, grid and format.

Statistical checks draw from fixed secrets; each states how often a right implementation would fail it under
a secret drawn afresh.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.accounting import GaussianEvent
from privacy.errors import PrivacyError
from privacy.mechanisms import Statistic, SumMechanism, grid_for
from privacy.randomness import NoiseSource

KINDS = ("counts", "code_sum", "class_sums", "second_moments", "class_second_moments", "gradient")
FALSE_ALARM = 1e-6


def source(label: str = "test") -> NoiseSource:
    return NoiseSource(hashlib.sha256(label.encode()).digest(), label)


def mechanism(*kinds: str, dim: int = 4, classes: int = 3, noise: float = 0.0, **changes) -> SumMechanism:
    return SumMechanism(tuple(map(Statistic, kinds)), dim, classes, noise, **changes)


def no_records(dim: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, dim)), np.zeros(0, dtype=np.int64)


@st.composite
def neighbours(draw):
    """A mechanism without noise, records, one record more, and the weights of a broadcast model."""
    dim, classes = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))
    weights = draw(st.lists(st.floats(0.05, 20), min_size=len(kinds), max_size=len(kinds)))
    grid = 2.0 ** draw(st.integers(4, 20))
    made = SumMechanism(tuple(map(Statistic, kinds, weights)), dim, classes, 0.0, grid=grid)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 6))
    # Norms from far inside the unit ball to far outside it; some records at a corner of it.
    codes = rng.normal(size=(count + 1, dim)) * 10.0 ** rng.uniform(-3, 3, size=(count + 1, 1))
    if draw(st.booleans()):
        codes[-1] = np.eye(dim)[0] * draw(st.sampled_from([1.0, -1.0, 1e150, -1e300]))
    if draw(st.booleans()):
        codes[-1, draw(st.integers(0, dim - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    model = rng.normal(size=(dim, classes)) * 10.0 ** draw(st.integers(-2, 6))
    return made, codes, rng.integers(0, classes, count + 1), np.clip(model, -1e6, 1e6)


@given(neighbours())
def test_one_record_moves_the_integers_by_at_most_the_derived_sensitivity(case):
    made, codes, labels, weights = case
    with np.errstate(over="ignore"):
        larger = made.release(codes, labels, source(), weights)
        smaller = made.release(codes[:-1], labels[:-1], source(), weights)
    assert np.linalg.norm((larger - smaller).astype(float)) <= made.grid_sensitivity


@pytest.mark.parametrize(
    "kinds",
    [
        ("counts", "class_sums", "second_moments"),
        ("class_sums", "second_moments"),
        ("code_sum",),
        ("class_second_moments",),
        ("gradient",),
    ],
)
def test_the_derived_sensitivity_is_reached(kinds):
    made = mechanism(*kinds, grid=2.0**20)
    worst = np.array([[0.6, -0.8, 0.0, 0.0]])
    surely_wrong = np.outer(worst[0], [-1.0, 1.0, 0.0]) * 100  # softmax is sure of class 1, the label is 0
    released = made.release(worst, np.array([0]), source(), surely_wrong)
    assert np.linalg.norm(released / made.grid) == pytest.approx(made.sensitivity, rel=1e-5)


def test_joint_sensitivity_is_root_three_for_counts_sums_and_moments_and_root_two_without_counts():
    three = mechanism("counts", "class_sums", "second_moments")
    assert three.sensitivity == pytest.approx(math.sqrt(3))
    assert mechanism("class_sums", "second_moments").sensitivity == pytest.approx(math.sqrt(2))
    assert mechanism("gradient").sensitivity == pytest.approx(math.sqrt(2))
    assert three.grid_sensitivity == pytest.approx(math.sqrt(3) * 1024 + math.sqrt(three.length))


def test_the_accountant_hears_the_noise_multiplier_whatever_the_honest_clients():
    made = mechanism("counts", noise=3.5, honest=4)
    assert made.event == GaussianEvent(3.5)
    assert made.target_std == 3.5 * made.grid_sensitivity
    assert made.own_std == pytest.approx(made.target_std / 2)


def test_rows_beyond_the_unit_ball_are_clipped_onto_it_and_others_left_alone():
    made = mechanism("code_sum", dim=2, grid=1000.0)
    total = made.release(np.array([[30.0, 40.0], [0.1, 0.2]]), np.array([0, 0]), source())
    assert total.tolist() == [700, 1000]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_counts_as_a_record_with_code_zero(bad):
    made = mechanism("counts", "code_sum", dim=2, classes=2, grid=1000.0)
    total = made.release(np.array([[bad, 0.5], [0.5, 0.0]]), np.array([0, 1]), source())
    assert total.tolist() == [1000, 1000, 500, 0]


@pytest.mark.parametrize("huge", [1e300, -1e300, 1e9, np.nan, np.inf])
def test_a_broadcast_model_that_could_overflow_is_refused_whatever_the_records(huge):
    # Softmax of an overflow is not a number, and one record could then move a sum without bound.
    made = mechanism("gradient")
    weights = np.full((4, 3), huge)
    for codes, labels in (no_records(4), (np.full((2, 4), 0.5), np.array([0, 1]))):
        with pytest.raises(PrivacyError, match="weights"):
            made.release(codes, labels, source(), weights)


@given(seed=st.integers(0, 2**32 - 1), clip=st.floats(0.01, 2.0), size=st.floats(0.0, 50.0))
def test_one_record_s_gradient_stays_within_its_clip_which_is_the_sensitivity(seed, clip, size):
    rng = np.random.default_rng(seed)
    made = SumMechanism((Statistic("gradient", clip=clip),), 5, 3, 0.0, grid=2.0**24)
    model = size * rng.normal(size=(5, 3))
    codes, labels = rng.normal(size=(1, 5)), rng.integers(0, 3, 1)
    values = made.release(codes, labels, source(), model) / 2.0**24
    assert np.linalg.norm(values) <= made.sensitivity + 1e-6
    assert made.sensitivity == min(clip, math.sqrt(2.0))
    free = SumMechanism((Statistic("gradient"),), 5, 3, 0.0, grid=2.0**24)
    whole = free.release(codes, labels, source(), model) / 2.0**24
    norm = np.linalg.norm(whole)
    np.testing.assert_allclose(values, whole * min(1.0, clip / max(norm, 1e-12)), atol=1e-6)


@pytest.mark.parametrize("kind, clip", [("counts", 1.0), ("gradient", 0.0), ("gradient", math.inf)])
def test_a_clip_is_for_gradients_and_positive(kind, clip):
    with pytest.raises(PrivacyError, match="clip"):
        Statistic(kind, clip=clip)


def test_a_gradient_needs_a_model_of_the_right_shape():
    for weights in (None, np.zeros((3, 4))):
        with pytest.raises(PrivacyError, match="weights"):
            mechanism("gradient").release(*no_records(4), source(), weights)


def test_statistics_without_noise_are_what_they_are_called():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(20, 4))
    codes /= 2 * np.linalg.norm(codes, axis=1, keepdims=True)
    labels, weights = rng.integers(0, 3, 20), rng.normal(size=(4, 3))
    made = mechanism(*KINDS, grid=2.0**24)
    got = made.decode(made.release(codes, labels, source(), weights))
    onehot = np.eye(3)[labels]
    logits = np.exp(codes @ weights)
    expected = {
        "counts": onehot.sum(0),
        "code_sum": codes.sum(0),
        "class_sums": codes.T @ onehot,
        "second_moments": codes.T @ codes,
        "class_second_moments": np.einsum("nk,ni,nj->kij", onehot, codes, codes),
        "gradient": codes.T @ (logits / logits.sum(1, keepdims=True) - onehot),
    }
    assert set(got) == set(expected)
    for kind, value in expected.items():
        np.testing.assert_allclose(got[kind], value, atol=1e-6)


def test_decode_undoes_weights_and_adds_up_over_clients():
    made = SumMechanism((Statistic("counts", 0.25), Statistic("code_sum", 4.0)), 2, 2, 0.0, grid=64.0)
    one = made.release(np.array([[1.0, 0.0]]), np.array([0]), source())
    two = made.release(np.array([[0.0, 0.5], [0.0, 0.25]]), np.array([1, 1]), source())
    got = made.decode(one + two)
    assert got["counts"].tolist() == [1.0, 2.0]
    assert got["code_sum"].tolist() == [1.0, 0.75]
    with pytest.raises(PrivacyError, match="4"):
        made.decode(np.zeros(5))


def test_off_diagonals_travel_times_root_two_so_that_the_block_keeps_the_norm_of_the_matrix():
    made = mechanism("second_moments", dim=2, grid=2.0**20)
    packed = made.release(np.array([[0.6, 0.8]]), np.array([0]), source()) / made.grid
    np.testing.assert_allclose(packed, [0.36, 0.48 * math.sqrt(2), 0.64], atol=1e-5)
    assert np.linalg.norm(packed) == pytest.approx(1.0, abs=1e-5)


def test_decoded_off_diagonals_carry_half_the_noise_variance_of_the_diagonal():
    dim = 120
    made = mechanism("second_moments", dim=dim, noise=1.0)
    matrix = made.decode(made.release(*no_records(dim), source()))["second_moments"]
    assert np.array_equal(matrix, matrix.T)
    off = matrix[np.triu_indices(dim, 1)]
    assert _std_is(off, made.noise_std("second_moments", 1) / math.sqrt(2))
    assert _std_is(np.diag(matrix), made.noise_std("second_moments", 1))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 6))
def test_moments_of_all_classes_together_cost_one_record_the_sensitivity_of_one_class(seed, classes):
    rng = np.random.default_rng(seed)
    made = mechanism("class_second_moments", dim=4, classes=classes, grid=2.0**24)
    assert made.sensitivity == 1.0 and made.length == classes * 10
    codes, labels = 3 * rng.normal(size=(6, 4)), rng.integers(0, classes, 6)
    moved = made.release(codes, labels, source()) - made.release(codes[1:], labels[1:], source())
    slots = moved.reshape(classes, 10)
    assert not np.delete(slots, labels[0], axis=0).any()
    unit = codes[0] / max(1.0, np.linalg.norm(codes[0]))
    assert np.linalg.norm(slots) / made.grid == pytest.approx(unit @ unit, abs=1e-5)


def test_each_class_s_moments_carry_the_noise_of_second_moments():
    """False alarm: 1e-6 for each of two."""
    made = mechanism("class_second_moments", dim=60, classes=5, noise=1.0)
    found = made.decode(made.release(*no_records(60), source()))["class_second_moments"]
    assert found.shape == (5, 60, 60) and np.array_equal(found, found.transpose(0, 2, 1))
    std = made.noise_std("class_second_moments", 1)
    assert _std_is(found[:, *np.triu_indices(60, 1)].ravel(), std / math.sqrt(2))
    assert _std_is(found[:, np.arange(60), np.arange(60)].ravel(), std)


def _std_is(values: np.ndarray, std: float) -> bool:
    """Whether the variance lies in the chi-square interval of `FALSE_ALARM` about std^2 (mean zero)."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], values.size)
    return low < float((values**2).sum()) / std**2 < high


@pytest.mark.parametrize("noise", [0.3, 4.0])
@pytest.mark.parametrize("honest", [1, 3])
def test_the_noise_of_a_client_has_the_planned_deviation_on_every_block(noise, honest):
    """False alarms: 1e-6 a block."""
    blocks = (Statistic("counts", 0.1), Statistic("class_sums"), Statistic("second_moments", 0.6))
    made = SumMechanism(blocks, 100, 40, noise, honest=honest)
    released = made.release(*no_records(100), source(f"{noise}/{honest}"))
    assert _std_is(released.astype(float), noise * made.grid_sensitivity / math.sqrt(honest))
    decoded = made.decode(released)
    assert _std_is(decoded["counts"], made.noise_std("counts", 1))
    assert _std_is(decoded["class_sums"], made.noise_std("class_sums", 1))


@pytest.mark.parametrize("honest", [2, 5])
def test_the_sum_of_the_honest_clients_carries_the_whole_noise_of_the_guarantee(honest):
    """False alarm: 1e-6."""
    made = mechanism("class_sums", dim=100, classes=100, noise=2.0, honest=honest)
    total = sum(made.release(*no_records(100), source(f"client-{i}")) for i in range(honest))
    assert _std_is(total.astype(float), 2.0 * made.grid_sensitivity)


def test_the_noise_is_integer_gaussian():
    """Discrete noise on the grid; Kolmogorov-Smirnov with false alarm 1e-6 on 20,000 coordinates."""
    made = mechanism("class_sums", dim=200, classes=100, noise=1.0)
    released = made.release(*no_records(200), source())
    assert released.dtype == np.int64
    uniform = np.random.default_rng(0).uniform(-0.5, 0.5, released.size)  # spreads each integer over its cell
    assert stats.kstest((released + uniform) / made.own_std, "norm").pvalue > FALSE_ALARM


def test_noise_does_not_depend_on_the_records_and_secrets_give_different_noise():
    made = mechanism("counts", "code_sum", noise=1.0)
    codes, labels = np.full((3, 4), 0.5), np.array([0, 1, 1])
    exact = dataclasses.replace(made, noise_multiplier=0.0).release(codes, labels, source())
    assert np.array_equal(
        made.release(codes, labels, source()) - exact, made.release(*no_records(4), source())
    )
    assert not np.array_equal(
        made.release(codes, labels, source("a")), made.release(codes, labels, source("b"))
    )


@given(st.lists(st.integers(0, 4), max_size=6), st.permutations(KINDS))
def test_the_format_is_the_same_whichever_classes_are_present(labels, kinds):
    made = mechanism(*kinds, dim=3, classes=5)
    codes = np.full((len(labels), 3), 0.5)
    released = made.release(codes, np.array(labels, dtype=np.int64), source(), np.zeros((3, 5)))
    assert released.shape == (made.length,) == (5 + 3 + 15 + 6 + 5 * 6 + 15,)
    assert released.dtype == np.int64
    assert made.decode(released)["counts"].tolist() == [labels.count(c) for c in range(5)]


def test_what_leaves_is_clamped_to_the_limit():
    made = mechanism("counts", classes=3, grid=1000.0, limit=2500)
    released = made.release(np.zeros((5, 4)), np.array([0, 0, 0, 0, 1]), source())
    assert released.tolist() == [2500, 1000, 0]


def test_no_sum_is_so_large_that_the_noise_on_it_is_cut_away():
    # Under shared noise the others rely on it. P(false alarm) < 1e-9: 5 standard errors of a variance.
    made = mechanism("counts", classes=1000, noise=2.0, honest=3, grid=1000.0, limit=10**5)
    labels = np.repeat(np.arange(1000), 200)
    released = made.release(np.zeros((len(labels), 4)), labels, source())
    assert np.abs(released.std() / made.own_std - 1) < 5 / math.sqrt(2000)
    assert np.abs(released).max() <= made.limit


@pytest.mark.parametrize(
    ("changes", "named"), [({"limit": 2500, "noise": 50.0}, "limit"), ({"noise": 1e-3, "grid": 16.0}, "grid")]
)
def test_noise_that_its_grid_or_limit_would_spoil_is_refused(changes, named):
    with pytest.raises(PrivacyError, match=named):
        mechanism("counts", **changes).release(*no_records(4), source())


class Extreme:
    """A source with noise that no Gaussian would draw in the age of the universe."""

    def discrete_gaussian(self, sigma: float, n: int) -> np.ndarray:
        return np.full(n, int(1e12))


def test_not_even_noise_beyond_its_tail_passes_the_limit():
    made = mechanism("counts", noise=1.0, limit=10**6)
    assert made.release(*no_records(4), Extreme()).tolist() == [10**6] * 3


@st.composite
def fittings(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))
    clients = draw(st.integers(2, 50))
    made = SumMechanism(
        tuple(Statistic(kind, draw(st.floats(0.05, 4))) for kind in kinds),
        draw(st.integers(1, 8)),
        draw(st.integers(2, 5)),
        draw(st.just(0.0) | st.floats(0.05, 20)),
        honest=draw(st.integers(1, clients - 1)),
    )
    return made, clients, draw(st.integers(1, 500))


@given(fittings(), st.integers(0, 2**32 - 1))
def test_a_fitted_grid_never_overflows_and_never_cuts_evenly_spread_records_or_their_noise(case, seed):
    made, clients, each = case
    max_sum = 2**31 - 1
    fitted = grid_for(max_sum, each * clients, clients, made)
    assert fitted.limit * clients <= max_sum
    # The worst case of a coordinate: all records alike, at a corner of the ball and sure of a wrong class.
    codes = np.zeros((each, made.dim))
    codes[:, 0] = 1.0
    weights = np.zeros((made.dim, made.classes))
    weights[0, 1] = 1e3
    labels = np.zeros(each, dtype=np.int64)
    exact = dataclasses.replace(fitted, noise_multiplier=0.0).release(codes, labels, source(), weights)
    assert np.abs(exact).max() + 6 * fitted.own_std <= fitted.limit
    flooded = fitted.release(np.tile(codes, (3, 1)), np.tile(labels, 3), source(str(seed)), weights)
    assert np.abs(flooded).max() <= fitted.limit


def test_a_fitted_grid_changes_nothing_that_the_accountant_hears():
    made = mechanism("counts", "class_sums", noise=3.0, honest=2)
    fitted = grid_for(2**31 - 1, 1000, 3, made)
    assert fitted.event == made.event
    assert (fitted.statistics, fitted.dim, fitted.classes, fitted.honest) == (made.statistics, 4, 3, 2)
    assert math.log2(fitted.grid).is_integer()


def test_sums_that_cannot_fit_are_refused_in_words():
    with pytest.raises(PrivacyError, match="overflow: sums over 1000000 records"):
        grid_for(2**20, 10**6, 5, mechanism("counts"))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Statistic("means"), "means"),
        (lambda: Statistic("counts", 0.0), "weight of counts"),
        (lambda: Statistic("counts", math.nan), "weight of counts"),
        (lambda: mechanism(), "statistics"),
        (lambda: mechanism("counts", "counts"), "statistics"),
        (lambda: mechanism("counts", noise=-1.0), "noise_multiplier"),
        (lambda: mechanism("counts", noise=math.inf), "noise_multiplier"),
        (lambda: mechanism("counts", honest=0), "honest"),
        (lambda: mechanism("counts").release(np.zeros((2, 3)), np.zeros(2, int), source()), "codes"),
        (lambda: mechanism("counts").release(np.zeros((2, 4)), np.zeros(3, int), source()), "labels"),
        (lambda: mechanism("counts").release(np.zeros((1, 4)), np.array([3]), source()), "labels"),
        (lambda: mechanism("counts").release(np.zeros((1, 4)), np.array([-1]), source()), "labels"),
    ],
)
def test_wrong_arguments_are_named(build, named):
    with pytest.raises(PrivacyError, match=named):
        build()
