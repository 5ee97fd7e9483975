"""Noise from a secret.

Statistical tests use fixed secrets, so they cannot fail by chance; their limits are those of a false-alarm
rate of 1e-6 each for a fresh one.
"""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy.errors import PrivacyError
from privacy.randomness import NoiseSource, fresh_secret, reproducible_secret

SECRET = bytes(range(32))
FALSE_ALARM = 1e-6
PINNED_UNIFORM = [0.2755163652988556, 0.528826728175842]
PINNED_INTEGERS = [-676, 1212, 921, -708, 442, -161]
PINNED_COINS = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]
PINNED_SECRET = "f53315eda07ec3e7ddf5668d5d0d398d426cd977b78ab3b5e17a4e6add6f9251"


def source(label: str = "test") -> NoiseSource:
    return NoiseSource(SECRET, label)


def draws(noise: NoiseSource) -> list[np.ndarray]:
    return [
        noise.uniform((3, 5)),
        noise.normal((2, 2)),
        noise.bernoulli(0.3, 20),
        noise.discrete_gaussian(7.5, 30),
        noise.normal(4, np.float64),
    ]


def test_same_secret_label_and_calls_give_the_same_numbers():
    for one, other in zip(draws(source()), draws(source()), strict=True):
        assert np.array_equal(one, other)


def test_the_stream_never_changes_between_versions():
    # a release is recomputed from its stored secret, perhaps by a later version: these numbers are for ever
    noise = source("pinned")
    assert noise.uniform(2).tolist() == PINNED_UNIFORM
    assert noise.discrete_gaussian(1000.0, 6).tolist() == PINNED_INTEGERS
    assert noise.child("a").bernoulli(0.5, 16).tolist() == PINNED_COINS
    assert reproducible_secret(3, "run", "client-0").hex() == PINNED_SECRET


def test_streams_of_other_labels_secrets_and_children_differ():
    streams = [
        source("a"),
        source("b"),
        NoiseSource(bytes(32), "a"),
        source("a").child("b"),
        source("a").child("b").child("c"),
        source("a").child("bc"),
        source("ab").child("c"),
        source("a/b"),
    ]
    firsts = {float(stream.uniform(1)[0]) for stream in streams}
    assert len(firsts) == len(streams)


def test_children_do_not_depend_on_what_the_parent_drew():
    early, late = source(), source()
    late.normal(100)
    assert np.array_equal(early.child("x").uniform(4), late.child("x").uniform(4))


def test_a_child_is_opened_once():
    noise = source("release")
    noise.child("noise")
    with pytest.raises(PrivacyError, match="release/noise"):
        noise.child("noise")


def test_later_draws_do_not_repeat_earlier_ones():
    noise = source()
    words = np.concatenate([noise.uniform(50_000), noise.uniform(50_000)])
    assert len(np.unique(words)) == 100_000


def test_long_draws_do_not_depend_on_how_they_are_chunked():
    whole, parts = source(), source()
    cut = np.concatenate([parts.uniform(131_072), parts.uniform(1_000)])
    assert np.array_equal(whole.uniform(132_072), cut)


def test_the_secret_does_not_show_and_sources_cannot_be_duplicated():
    noise = source("counts").child("round-0")
    shown = repr(noise) + str(noise) + noise.label
    assert "counts/round-0" in shown
    assert SECRET.hex() not in shown and str(SECRET) not in shown
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(noise)
    with pytest.raises(PrivacyError) as caught:
        NoiseSource(b"short secret", "x")
    assert "short secret" not in str(caught.value)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33), "0" * 32, None, 7])
def test_bad_secrets_are_refused(secret):
    with pytest.raises(PrivacyError):
        NoiseSource(secret, "x")


@pytest.mark.parametrize("label", ["", None, 3, b"x"])
def test_bad_labels_are_refused(label):
    with pytest.raises(PrivacyError):
        NoiseSource(SECRET, label)
    with pytest.raises(PrivacyError):
        source().child(label)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: n.bernoulli(-0.1, 3),
        lambda n: n.bernoulli(1.1, 3),
        lambda n: n.bernoulli(math.nan, 3),
        lambda n: n.bernoulli(0.5, -1),
        lambda n: n.bernoulli(0.5, 2.5),
        lambda n: n.discrete_gaussian(-1.0, 3),
        lambda n: n.discrete_gaussian(math.inf, 3),
        lambda n: n.discrete_gaussian(math.nan, 3),
        lambda n: n.discrete_gaussian(1e13, 3),
        lambda n: n.discrete_gaussian(1.0, -3),
        lambda n: n.uniform((2, -1)),
        lambda n: n.normal(3, np.int64),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(PrivacyError):
        call(source())


def test_shapes_and_types():
    noise = source()
    assert noise.uniform(()).shape == () and noise.uniform(0).shape == (0,)
    assert noise.normal((2, 3, 4)).shape == (2, 3, 4) and noise.normal(2).dtype == np.float32
    assert noise.normal(2, np.float64).dtype == np.float64
    assert noise.bernoulli(0.5, np.int64(4)).dtype == np.bool_
    assert noise.discrete_gaussian(2, 4).dtype == np.int64
    assert noise.discrete_gaussian(2.0, 0).shape == (0,)


def test_uniform_is_open_and_uniform():
    values = source().uniform(200_000)
    assert values.min() > 0.0 and values.max() < 1.0
    assert stats.kstest(values, "uniform").pvalue > FALSE_ALARM


def test_normal_is_normal():
    values = source().normal(200_000, np.float64)
    assert stats.kstest(values, "norm").pvalue > FALSE_ALARM
    assert np.isfinite(values).all() and 4.0 < np.abs(values).max() < 8.3


def test_certain_and_impossible_coins():
    assert source().bernoulli(1.0, 1000).all()
    assert not source().bernoulli(0.0, 1000).any()


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.97])
def test_coins_fall_at_their_rate(p):
    heads = int(source(f"p={p}").bernoulli(p, 300_000).sum())
    assert stats.binomtest(heads, 300_000, p).pvalue > FALSE_ALARM


@pytest.mark.parametrize("sigma", [0.3, 0.9, 1.0, 1.5, 4.0, 12.3])
def test_discrete_gaussian_has_its_mass_function(sigma):
    n = 200_000
    values = source(f"sigma={sigma}").discrete_gaussian(sigma, n)
    support = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    mass = np.exp(-(support.astype(float) ** 2) / (2 * sigma**2))
    expected = n * mass / mass.sum()
    seen = np.array([(values == k).sum() for k in support])
    assert seen.sum() == n
    common = expected > 10
    rest = [expected[~common].sum() + 1e-9, seen[~common].sum()]
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert stats.chi2.sf(statistic, common.sum() - 1) > FALSE_ALARM
    assert stats.poisson.sf(rest[1] - 1, rest[0]) > FALSE_ALARM


@pytest.mark.parametrize("sigma", [1e3, 1e6 + 0.5, 1e9, 1e12])
def test_wide_discrete_gaussian_is_the_rounded_normal(sigma):
    values = source(f"wide {sigma}").discrete_gaussian(sigma, 200_000)
    jitter = source("jitter").uniform(values.size) - 0.5  # spread each integer over its cell
    assert stats.kstest((values + jitter) / sigma, "norm").pvalue > FALSE_ALARM
    low = np.bincount(values % 8, minlength=8)  # and its low-order bits are even
    assert stats.chisquare(low).pvalue > FALSE_ALARM


def test_discrete_gaussian_without_noise_is_zero_and_draws_nothing():
    noise = source()
    assert not noise.discrete_gaussian(0.0, 10).any()
    assert np.array_equal(noise.uniform(3), source().uniform(3))


@given(
    sigma=st.floats(0.01, 1e12),
    n=st.integers(0, 50),
    label=st.text(min_size=1, max_size=10).filter(lambda t: t.isprintable()),
)
def test_discrete_gaussian_of_any_scale(sigma, n, label):
    values = NoiseSource(SECRET, label).discrete_gaussian(sigma, n)
    assert values.shape == (n,)
    assert (np.abs(values) <= 12 * sigma + 40).all()


def test_fresh_secrets_are_fresh():
    secrets = {fresh_secret() for _ in range(100)}
    assert len(secrets) == 100 and {len(secret) for secret in secrets} == {32}


def test_reproducible_secrets_follow_seed_and_labels():
    assert reproducible_secret(1, "a", "b") == reproducible_secret(1, "a", "b")
    others = [(1, "a"), (1, "ab"), (1, "b", "a"), (2, "a", "b"), (-1, "a", "b"), (1,), (1, "a", "b", "c")]
    secrets = {reproducible_secret(*labels) for labels in [*others, (1, "a", "b")]}
    assert len(secrets) == len(others) + 1
    for bad in (1.5, "1", None, True):
        with pytest.raises(PrivacyError):
            reproducible_secret(bad)


def test_noise_does_not_follow_the_global_seed():
    import random

    random.seed(0)
    np.random.seed(0)
    one = NoiseSource(fresh_secret(), "x").uniform(4)
    random.seed(0)
    np.random.seed(0)
    assert not np.array_equal(one, NoiseSource(fresh_secret(), "x").uniform(4))


def test_loading_the_package_loads_nothing_heavy():
    program = (
        "import sys, privacy, privacy.errors, privacy.randomness, privacy.accounting, privacy.budget\n"
        "heavy = {'torch', 'opacus', 'tenseal', 'flwr', 'dp_accounting'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
