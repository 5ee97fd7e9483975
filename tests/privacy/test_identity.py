from __future__ import annotations

import pickle

import pytest

from privacy.errors import PrivacyError
from privacy.identity import SigningKey, fingerprint, verify


def test_a_stored_key_signs_like_the_new_one(tmp_path):
    path = tmp_path / "deep" / "identity.key"
    key = SigningKey.create(path)
    again = SigningKey.load(path)
    assert again.public == key.public
    assert len(key.public) == 32
    assert again.sign(b"text") == key.sign(b"text")
    assert len(key.sign(b"text")) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_only_the_right_key_and_message_verify(tmp_path):
    one, two = SigningKey.create(tmp_path / "1"), SigningKey.create(tmp_path / "2")
    signature = one.sign(b"text")
    assert verify(one.public, signature, b"text")
    assert not verify(two.public, signature, b"text")
    assert not verify(one.public, signature, b"text!")
    assert not verify(one.public, signature[:-1] + bytes([signature[-1] ^ 1]), b"text")


@pytest.mark.parametrize(
    "public", [b"", b"x", bytes(32), b"\xff" * 32], ids=lambda value: f"{len(value)} x {value[:1].hex()}"
)
@pytest.mark.parametrize(
    "signature",
    [b"", bytes(63), bytes(64), b"\xff" * 64],
    ids=lambda value: f"{len(value)} x {value[:1].hex()}",
)
def test_malformed_keys_and_signatures_are_just_not_valid(public, signature):
    assert not verify(public, signature, b"text")


def test_keys_of_small_order_verify_nothing():
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime
    eight = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
    assert (d * eight**4 + 2 * eight**2 - 1) % prime == 0
    for y in (0, 1, prime - 1, prime, prime + 1, eight, prime - eight):
        for sign in (0, 1 << 255):
            public = (y | sign).to_bytes(32, "little")
            for first in (public, (1).to_bytes(32, "little")):
                assert not any(verify(public, first + bytes(32), b"text %d" % i) for i in range(16))


def test_a_key_is_never_replaced(tmp_path):
    path = tmp_path / "identity.key"
    key = SigningKey.create(path)
    with pytest.raises(PrivacyError, match="already exists"):
        SigningKey.create(path)
    assert SigningKey.load_or_create(path).public == key.public


def test_unusable_key_files_are_refused(tmp_path):
    path = tmp_path / "identity.key"
    with pytest.raises(PrivacyError, match="cannot be read"):
        SigningKey.load(path)
    SigningKey.create(path)
    path.chmod(0o640)
    with pytest.raises(PrivacyError, match="must be 0600"):
        SigningKey.load(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(PrivacyError, match="damaged"):
        SigningKey.load(path)


def test_the_secret_stays_in_its_file(tmp_path):
    path = tmp_path / "identity.key"
    key = SigningKey.create(path)
    secret = path.read_bytes()
    assert secret.hex() not in repr(key)
    assert repr(key) == f"SigningKey({fingerprint(key.public)})"
    with pytest.raises(TypeError):
        pickle.dumps(key)
