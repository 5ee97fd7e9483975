"""Attacks on synthetic data that remembers its training records, and on data that does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from attacks.membership.scores import Signals, lira_online
from attacks.rates import area
from attacks.synthetic.density import Directions, density_ratio, log_density
from attacks.synthetic.distances import nearest, nearest_ratio, nearness


def population(count: int, rng: np.random.Generator, dims: int = 4) -> np.ndarray:
    """Two clumps of very unequal density."""
    clump = rng.random(count) < 0.5
    return np.where(clump[:, None], rng.normal(0, 0.3, (count, dims)), rng.normal(4, 2, (count, dims)))


def remembered(members: np.ndarray, count: int, rng: np.random.Generator, blur: float) -> np.ndarray:
    """Members drawn again, with noise of `blur`."""
    return members[rng.integers(0, len(members), count)] + rng.normal(0, blur, (count, members.shape[1]))


def test_densities_are_those_of_scipy():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3))
    at = rng.normal(size=(50, 3))
    known = np.mean([stats.multivariate_normal(p, 0.2**2 * np.eye(3)).pdf(at) for p in points], axis=0)
    np.testing.assert_allclose(log_density(points, at, width=0.2), np.log(known), rtol=1e-9)


def test_directions_even_out_the_population_and_drop_those_that_do_not_vary():
    rng = np.random.default_rng(1)
    data = rng.normal(size=(500, 5)) * [10, 1, 0.1, 1, 0] + 3
    axes = Directions.of(data, 9)
    places = axes(data)
    assert places.shape == (500, 4)
    np.testing.assert_allclose(np.cov(places.T), np.eye(4), atol=1e-9)
    assert Directions.of(data, 2)(data).shape == (500, 2)
    for bad, count in ((data[:1], 2), (data, 0)):
        with pytest.raises(ValueError, match="population"):
            Directions.of(bad, count)


@pytest.mark.parametrize(("blur", "low", "high"), [(0.2, 0.65, 1.0), (None, 0.42, 0.58)])
def test_density_ratios_find_what_was_remembered(blur: float | None, low: float, high: float):
    """400 members and 400 others; without memory an area beyond 0.42 to 0.58 comes once in 10,000 seeds."""
    rng = np.random.default_rng(2)
    members, others, known = (population(400, rng) for _ in range(3))
    synthetic = population(3000, rng) if blur is None else remembered(members, 3000, rng, blur)
    records = np.concatenate([members, others])
    scores = density_ratio(records, synthetic, known, dims=4)
    found = area(scores[:400], scores[400:])[0]
    assert low <= found <= high
    if blur is not None:  # where synthetic data are dense alone says less
        axes = Directions.of(known, 4)
        plain = log_density(axes(synthetic), axes(records))
        assert found > area(plain[:400], plain[400:])[0] + 0.08


def test_distances_must_be_calibrated_to_mean_something():
    """A distance alone tells dense from thin; against shadow generators it tells members."""
    rng = np.random.default_rng(3)
    records, generators = population(300, rng), 24
    inside = rng.random((generators + 1, 300)) < 0.5
    signal = np.stack([nearness(records, remembered(records[row], 1000, rng, 0.3)) for row in inside])[
        ..., None
    ]
    signals = Signals(signal[0], signal[1:], inside[1:])
    calibrated = lira_online(signals, shared_spread=True)
    plain = signal[0, :, 0]
    seen = inside[0]
    best, poor = (area(scores[seen], scores[~seen])[0] for scores in (calibrated, plain))
    assert best > poor + 0.1 and best > 0.8


def test_the_nearest_are_found_exactly():
    rng = np.random.default_rng(4)
    records, among = rng.normal(100, 1, (70, 6)), rng.normal(100, 1, (90, 6))
    among[3] = records[5]
    distances, places = nearest(records, among, 4)
    known = np.sort(cdist(records, among), axis=1)[:, :4]
    np.testing.assert_allclose(distances, known, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(records[:, None] - among[places], axis=2), distances)
    assert distances[5, 0] == 0.0 and places[5, 0] == 3
    assert nearness(records, among)[5] == pytest.approx(-np.log(1e-12))


def test_a_copy_stands_out_among_ratios():
    rng = np.random.default_rng(5)
    records, synthetic = rng.normal(size=(50, 3)), rng.normal(size=(80, 3))
    synthetic[0] = records[0]
    ratios = nearest_ratio(records, synthetic)
    assert ratios[0] == 0.0 and (ratios >= 0).all() and (ratios <= 1).all()
    assert nearest_ratio(records[:1], np.repeat(records[:1], 2, axis=0))[0] == 1.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="M >= 3"):
        nearest(np.zeros((2, 3)), np.zeros((2, 3)), 3)
    with pytest.raises(ValueError, match="records"):
        nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="at least one"):
        density_ratio(np.zeros((2, 3)), np.zeros((0, 3)), np.zeros((5, 3)))
