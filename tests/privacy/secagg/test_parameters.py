from __future__ import annotations

import pytest

from privacy.errors import AggregationError
from privacy.secagg.ciphertexts import data_primes
from privacy.secagg.parameters import CkksParameters


def test_defaults_hold_sums_beyond_two_to_the_thirty_from_two_hundred_contributors():
    params = CkksParameters()
    assert params.max_sum == 2**31 - 1
    assert params.max_contributors >= 200
    assert params.decode_error(200) * 2**10 < params.rounding_step
    assert params.security_bits == 128
    assert params.slots == 4096
    assert params.ciphertexts_for(4096) == 1
    assert params.ciphertexts_for(4097) == 2


def test_largest_sum_stays_below_half_the_real_modulus():
    for params in (
        CkksParameters(),
        CkksParameters(4096, (54, 55), 26),
        CkksParameters(8192, (60, 40, 60), 40),
    ):
        modulus = 1
        for prime in data_primes(params):
            modulus *= prime
        assert (params.max_sum + 0.5) * 2.0**params.scale_bits < modulus / 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"poly_modulus_degree": 5000}, "poly_modulus_degree"),
        ({"poly_modulus_degree": 4096}, "security"),
        ({"coeff_mod_bits": (60, 60, 60, 60)}, "security"),
        ({"coeff_mod_bits": (60,)}, "coeff_mod_bits"),
        ({"coeff_mod_bits": (60, 61)}, "coeff_mod_bits"),
        ({"scale_bits": 59}, "scale_bits"),
        ({"scale_bits": 10}, "scale_bits"),
        ({"scale_bits": 28.0}, "scale_bits"),
    ],
)
def test_unsafe_or_impossible_parameters_are_refused_by_name(values, field):
    with pytest.raises(AggregationError, match=field):
        CkksParameters(**values)


@pytest.mark.parametrize("bound", [0, -1, 2**31, 1.5, float("nan"), True])
def test_a_bound_that_does_not_fit_is_refused(bound):
    with pytest.raises(AggregationError, match="magnitude bound"):
        CkksParameters().check_capacity(bound)


def test_too_many_contributors_are_refused():
    CkksParameters().check_capacity(2**31 - 1, 200)
    with pytest.raises(AggregationError, match="contributors"):
        CkksParameters().check_capacity(5, 1000)


def test_identifier_tells_parameters_apart_and_survives_json():
    params = CkksParameters()
    assert CkksParameters.from_dict(params.to_dict()) == params
    assert CkksParameters(scale_bits=29).identifier != params.identifier
    for damaged in (
        {},
        {**params.to_dict(), "scale_bits": "28"},
        {**params.to_dict(), "coeff_mod_bits": 60},
        None,
    ):
        with pytest.raises(AggregationError):
            CkksParameters.from_dict(damaged)
