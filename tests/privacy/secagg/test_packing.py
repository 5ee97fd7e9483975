from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import AggregationError
from privacy.secagg.ciphertexts import (
    add_residues,
    decrypt_slots,
    encrypt_slots,
    generate_keys,
    load_context,
    parse_residues,
)
from privacy.secagg.packing import (
    decrypt_integers,
    encrypt_integers,
    exact_integers,
    frame_ciphertexts,
    unframe_ciphertexts,
)
from privacy.secagg.parameters import CkksParameters

SMALL = CkksParameters(4096, (54, 55), 26)


@pytest.fixture(scope="module")
def keys():
    return generate_keys(SMALL)


def add(params, first, second):
    words = zip(first, second, strict=True)
    return [
        add_residues(params, parse_residues(params, a), parse_residues(params, b)).tobytes() for a, b in words
    ]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_sums_of_integer_vectors_are_exact(keys, data):
    public, secret = keys
    contributors = data.draw(st.integers(1, 5))
    length = data.draw(st.sampled_from([1, 2, 7, 2047, 2048, 2049, 5000]))
    bound = data.draw(st.sampled_from([1, 1000, SMALL.max_sum // contributors]))
    bound = min(bound, SMALL.max_value)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = [rng.integers(-bound, bound + 1, length) for _ in range(contributors)]
    vectors[0][:] = data.draw(st.sampled_from([-bound, 0, bound]))
    total = encrypt_integers(public, SMALL, vectors[0])
    assert len(total) == -(-length // SMALL.slots)
    for vector in vectors[1:]:
        total = add(SMALL, total, encrypt_integers(public, SMALL, vector))
    decoded = decrypt_integers(secret, SMALL, total, length, bound * contributors)
    assert decoded.dtype == np.int64
    np.testing.assert_array_equal(decoded, sum(vectors))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 3), cut=st.integers(1, 200_000), extra=st.binary(min_size=1, max_size=9))
def test_framing_is_exact(count, cut, extra):
    parts = [bytes([number]) * SMALL.ciphertext_bytes for number in range(count)]
    parts = [np.frombuffer(part, "<u8") % 2**50 for part in parts]
    body = frame_ciphertexts([part.astype("<u8").tobytes() for part in parts])
    assert [np.frombuffer(part, "<u8").tolist() for part in unframe_ciphertexts(SMALL, body, count)] == [
        part.tolist() for part in parts
    ]
    for damaged in (body[: max(0, len(body) - cut)], body + extra):
        with pytest.raises(ValueError):
            unframe_ciphertexts(SMALL, damaged, count)
    with pytest.raises(ValueError):
        unframe_ciphertexts(SMALL, body, count + 1)


@pytest.mark.parametrize("params", [CkksParameters(), SMALL, CkksParameters(8192, (60, 40, 60), 50)])
def test_adding_residues_is_what_the_library_does(params):
    import tenseal

    public, secret = generate_keys(params)
    context = load_context(secret, params, secret=True)
    values = [[float(n % 50) for n in range(params.slots)], [float(-3 * n) for n in range(params.slots)]]
    vectors = [tenseal._ts_cpp.CKKSVector(context.data, v, 2.0**params.scale_bits) for v in values]
    count = params.ciphertext_bytes // 8

    def residues(vector):
        words = np.fromiter(map(vector.ciphertext()[0].__getitem__, range(count)), "<u8", count)
        return parse_residues(params, words.tobytes())

    ours = add_residues(params, residues(vectors[0]), residues(vectors[1]))
    theirs = vectors[0] + vectors[1]
    np.testing.assert_array_equal(ours, residues(theirs))
    np.testing.assert_array_equal(decrypt_slots(context, params, ours.tobytes()), theirs.decrypt())


@pytest.mark.parametrize(
    "values",
    [
        np.array([]),
        np.array([], dtype=np.int64),
        np.array([1.0, float("nan")]),
        np.array([[1, 2]]),
        np.array([True]),
        np.array([2**40]),
        np.array([-(2**63)]),
    ],
)
def test_only_vectors_of_integers_within_range_are_encrypted(keys, values):
    with pytest.raises(AggregationError, match="values"):
        encrypt_integers(keys[0], SMALL, values)


def test_a_context_must_be_whole_and_of_the_right_kind(keys):
    public, secret = keys
    one = np.array([1])
    with pytest.raises(AggregationError, match="not hold the secret key"):
        encrypt_integers(secret, SMALL, one)
    with pytest.raises(AggregationError, match="agreed"):
        encrypt_integers(public, CkksParameters(8192, (54, 55), 26), one)
    for damaged in (b"", public[:1000], b"x" * 500):
        with pytest.raises(AggregationError, match="damaged"):
            encrypt_integers(damaged, SMALL, one)
    with pytest.raises(AggregationError, match="secret"):
        decrypt_integers(public, SMALL, encrypt_integers(public, SMALL, one), 1, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 11.0, -11.0, 1e300, 3.3])
def test_decoded_slots_that_are_no_sum_are_refused(bad):
    np.testing.assert_array_equal(exact_integers(np.array([10.0004, -10, 0.0]), 10), [10, -10, 0])
    with pytest.raises(AggregationError, match="slot"):
        exact_integers(np.array([1.0, bad]), 10)


def test_slots_beyond_the_vector_must_be_empty(keys):
    public, secret = keys
    context = load_context(public, SMALL)
    ciphertext = encrypt_slots(context, SMALL, [1.0, 2.0, 3.0])
    assert decrypt_integers(secret, SMALL, [ciphertext], 3, 10).tolist() == [1, 2, 3]
    with pytest.raises(AggregationError, match="slot"):
        decrypt_integers(secret, SMALL, [ciphertext], 2, 10)
    with pytest.raises(AggregationError, match="1 ciphertexts"):
        decrypt_integers(secret, SMALL, [ciphertext], 5000, 10)


def test_another_key_decrypts_to_nothing(keys):
    _, stranger = generate_keys(SMALL)
    ciphertext = encrypt_integers(keys[0], SMALL, np.array([1, 2, 3]))
    with pytest.raises(AggregationError, match="slot"):
        decrypt_integers(stranger, SMALL, ciphertext, 3, SMALL.max_sum)
