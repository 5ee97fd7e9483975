"""Attempts to decrypt fail against what clients really send, and succeed where something is broken."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic_secure.audit import decryption
from mosaic_secure.audit.decryption import attempt_decryption
from privacy.secagg.ciphertexts import generate_keys
from privacy.secagg.packing import encrypt_integers
from privacy.secagg.parameters import CkksParameters

PARAMS = CkksParameters()


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return generate_keys(PARAMS)


def sealed(public: bytes, count: int = 3) -> list[bytes]:
    return [encrypt_integers(public, PARAMS, np.arange(10) + client)[0] for client in range(count)]


def test_what_clients_send_stays_closed(keys: tuple[bytes, bytes]):
    found = attempt_decryption(keys[0], sealed(keys[0]), PARAMS)
    assert found.passed is True and "none of 3 ciphertexts" in found.found


def test_a_context_with_the_secret_key_is_found(keys: tuple[bytes, bytes]):
    found = attempt_decryption(keys[1], sealed(keys[0]), PARAMS)
    assert found.passed is False and "not a public one" in found.found


def test_an_open_ciphertext_is_found(keys: tuple[bytes, bytes]):
    words = np.frombuffer(sealed(keys[0], 1)[0], dtype=np.uint64).reshape(2, PARAMS.primes_in_data, -1).copy()
    words[1] = 0
    found = attempt_decryption(keys[0], [words.tobytes()], PARAMS)
    assert found.passed is False and "lies open" in found.found


def test_shared_randomness_is_found(keys: tuple[bytes, bytes]):
    (first,) = sealed(keys[0], 1)
    found = attempt_decryption(keys[0], [first, first], PARAMS)
    assert found.passed is False and "share their randomness" in found.found


def test_a_key_that_opens_them_is_found(keys: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decryption, "generate_keys", lambda _: keys)
    found = attempt_decryption(keys[0], sealed(keys[0]), PARAMS)
    assert found.passed is False and "opened a contribution" in found.found
