"""Balanced accuracy and the area under the ROC curve, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mosaic_secure.server.scoring import AUC, BALANCED, area_under_roc, balanced_accuracy, further_scores

cases = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 60), st.integers(0, 3))


def drawn(case: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels; rounded to few places the logits have many ties."""
    seed, classes, records, places = case
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, records, p=rng.dirichlet(np.full(classes, 0.7)))
    return rng.normal(0, 2, (records, classes)).round(places), labels


@given(cases)
@settings(deadline=None, max_examples=60)
def test_balanced_accuracy_is_that_of_scikit_learn(case: tuple[int, int, int, int]):
    logits, labels = drawn(case)
    predicted = np.where(np.isin(logits.argmax(1), labels), logits.argmax(1), labels[0])  # or it warns
    assert balanced_accuracy(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))


@given(cases)
@settings(deadline=None, max_examples=60)
def test_the_area_is_that_of_scikit_learn(case: tuple[int, int, int, int]):
    logits, labels = drawn(case)
    odds = logits - np.stack(
        [np.logaddexp.reduce(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])], axis=1
    )
    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    present = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    found = area_under_roc(logits, labels)
    if not present:
        assert found is None
    else:
        assert found == pytest.approx(np.mean([roc_auc_score(labels == k, odds[:, k]) for k in present]))


def test_a_skew_that_accuracy_hides():
    labels = np.array([1] * 9 + [0])
    logits = np.tile([0.0, 1.0], (10, 1))
    found = further_scores({"global": logits}, labels)
    assert found == {BALANCED: {"global": 0.5}, AUC: {"global": 0.5}}


def test_logits_and_log_probabilities_rank_alike_even_where_probabilities_saturate():
    labels = np.array([0, 1, 1, 0])
    logits = np.array([[800.0, 0.0], [0.0, 900.0], [0.0, 800.0], [0.0, 850.0]])
    assert area_under_roc(logits, labels) == pytest.approx(0.75)
    normal = logits[:, :] - np.logaddexp.reduce(logits, axis=1)[:, None]
    assert area_under_roc(normal, labels) == pytest.approx(0.75)


def test_what_has_no_score():
    assert balanced_accuracy(np.array([], dtype=int), np.array([], dtype=int)) is None
    assert area_under_roc(np.zeros((0, 2)), np.array([], dtype=int)) is None
    assert area_under_roc(np.zeros((3, 2)), np.array([1, 1, 1])) is None
    assert area_under_roc(np.array([[0.0, math.nan], [0.0, 1.0]]), np.array([0, 1])) is None
