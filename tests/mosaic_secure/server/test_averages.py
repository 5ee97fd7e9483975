"""Means that are taken in one client at a time have the bits of means over all clients at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_secure.server.averages import RunningMean
from mosaic_secure.server.stored import Stored

SHAPES = {"matrix": (5, 7), "row": (3,), "filter": (2, 3, 3, 3)}


def several(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    stream = np.random.default_rng(seed)
    return [{n: stream.normal(size=s).astype(np.float32) for n, s in SHAPES.items()} for _ in range(count)]


def running(members: list[dict[str, np.ndarray]], shares: list[float]) -> dict[str, np.ndarray]:
    made = RunningMean()
    for member, share in zip(members, shares, strict=True):
        made.add(member, share)
    return made.mean()


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_without_weights_it_is_the_mean(count: int, seed: int):
    members = several(count, seed)
    found = running(members, [0.0] * count)
    for name in SHAPES:
        wanted = np.mean([member[name] for member in members], axis=0)
        assert found[name].dtype == wanted.dtype and found[name].tobytes() == wanted.tobytes()


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40), st.integers(0, 2**32))
def test_with_weights_it_is_the_average(shares: list[float], seed: int):
    if sum(shares) < 1e-3:
        shares[0] = 1.0
    members = several(len(shares), seed)
    found = running(members, shares)
    for name in SHAPES:
        wanted = np.average([member[name] for member in members], axis=0, weights=shares)
        assert found[name].dtype == wanted.dtype and found[name].tobytes() == wanted.tobytes()


def test_what_is_taken_in_is_not_changed():
    members = several(3, 0)
    before = [{name: array.copy() for name, array in member.items()} for member in members]
    running(members, [1.0, 2.0, 0.0])
    for member, kept in zip(members, before, strict=True):
        assert all(np.array_equal(member[name], kept[name]) for name in SHAPES)


def test_stored_values_are_made_at_every_look_and_kept_by_nobody():
    asked: list[str] = []

    def make(name: str) -> str:
        asked.append(name)
        return name.upper()

    stored = Stored(["b", "a"], make)
    assert list(stored) == ["b", "a"] and len(stored) == 2 and "a" in stored and "c" not in stored
    assert asked == []
    assert dict(stored.items()) == {"b": "B", "a": "A"} and stored["a"] == "A"
    assert asked == ["b", "a", "a"]
    with pytest.raises(KeyError):
        stored["c"]
    assert asked == ["b", "a", "a"]
