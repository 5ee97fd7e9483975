from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_secure.config import PartitionConfig, load_config
from mosaic_secure.data.clients import load_partition
from mosaic_secure.data.partition import deal, dirichlet, require_minimum
from mosaic_secure.errors import UserError

RULES = st.one_of(
    st.builds(
        PartitionConfig,
        kind=st.just("dirichlet"),
        alpha=st.sampled_from([1e-4, 0.01, 0.1, 1.0, 100.0]),
        min_records=st.integers(1, 10),
    ),
    st.builds(PartitionConfig, kind=st.just("shards"), shards_per_client=st.integers(1, 4)),
    st.builds(PartitionConfig, kind=st.just("iid")),
)


def names(clients: int) -> tuple[str, ...]:
    return tuple(f"client-{index}" for index in range(clients))


def some_labels(records: int, classes: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(classes, size=records).astype(np.int64)


@settings(max_examples=60)
@given(
    rule=RULES,
    clients=st.integers(2, 12),
    spare=st.integers(0, 400),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_cover_all_and_depend_on_the_seed_alone(rule, clients, spare, classes, seed):
    records = clients * max(10, rule.min_records) + spare
    labels = some_labels(records, classes, seed)
    parts = deal(labels, rule, names(clients), seed)
    assert len(parts) == clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(records))
    again = deal(labels, rule, names(clients), seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    if rule.kind == "dirichlet":
        assert min(len(part) for part in parts) >= rule.min_records


@settings(max_examples=20)
@given(clients=st.integers(2, 10), seed=st.integers(0, 1000))
def test_dirichlet_reaches_the_minimum_even_when_nothing_is_left_over(clients, seed):
    labels = some_labels(clients * 7, 3, seed)
    assert [len(part) for part in dirichlet(labels, clients, 0.01, 7, seed)] == [7] * clients


def test_alpha_moves_from_one_class_a_client_to_an_even_split():
    labels = np.repeat(np.arange(10), 200)

    def largest_share(alpha: float) -> float:
        parts = dirichlet(labels, 10, alpha, 1, seed=3)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert largest_share(0.01) > 0.8
    assert largest_share(1000.0) < 0.15


def test_another_seed_gives_another_split():
    labels = some_labels(300, 10, 0)
    for kind in ("dirichlet", "shards", "iid"):
        rule = PartitionConfig(kind=kind)
        one, other = (deal(labels, rule, names(3), seed) for seed in (0, 1))
        assert any(len(a) != len(b) or not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_shards_bound_the_classes_of_a_client():
    labels = np.repeat(np.arange(10), 100)
    for part in deal(labels, PartitionConfig(kind="shards", shards_per_client=2), names(5), 0):
        assert len(np.unique(labels[part])) <= 4


def test_too_few_records_are_refused():
    with pytest.raises(UserError, match="needs 50 records, but there are 49"):
        deal(some_labels(49, 2, 0), PartitionConfig(min_records=10), names(5), 0)
    with pytest.raises(UserError, match="client-1 has 3 records, below partition.min_records = 10"):
        require_minimum(np.arange(3), "client-1", 10)


def test_given_positions_are_read_from_a_file(tmp_path):
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"client-0": [3, 0], "client-1": [1, 2]}))
    rule = PartitionConfig(kind="given", path=str(path), min_records=1)
    parts = deal(some_labels(5, 2, 0), rule, names(2), 0)
    assert [part.tolist() for part in parts] == [[0, 3], [1, 2]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ('{"client-0": [0]}', "needs a list for each"),
        ('{"client-0": [0], "client-1": [0]}', "already given"),
        ('{"client-0": [0, 0], "client-1": [1]}', "already given"),
        ('{"client-0": [0], "client-1": [5]}', "whole numbers from 0 to 4"),
        ('{"client-0": [true], "client-1": [1]}', "whole numbers"),
        ('{"client-0": 1, "client-1": [1]}', "whole numbers"),
    ],
)
def test_faulty_files_of_positions_are_refused(tmp_path, content, words):
    path = tmp_path / "parts.json"
    path.write_text(content)
    rule = PartitionConfig(kind="given", path=str(path), min_records=1)
    with pytest.raises(UserError, match=words):
        deal(some_labels(5, 2, 0), rule, names(2), 0)


def test_an_absent_file_of_positions_is_named(tmp_path):
    rule = PartitionConfig(kind="given", path=str(tmp_path / "absent.json"), min_records=1)
    with pytest.raises(UserError, match="absent.json"):
        deal(some_labels(5, 2, 0), rule, names(2), 0)


def test_what_a_caller_does_to_a_partition_reaches_no_other():
    config = load_config("digits", {})
    first = load_partition(config)
    first[0][:] = 0
    second, other = load_partition(config), load_partition(load_config("digits", {"seed": 1}))
    assert len(np.unique(np.concatenate(second))) == sum(map(len, second))
    assert any(not np.array_equal(a, b) for a, b in zip(second, other, strict=True))
