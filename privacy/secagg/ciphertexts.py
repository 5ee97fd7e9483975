"""The one place that talks to TenSEAL: keys, and ciphertexts as bare residues.

On the wire a ciphertext is nothing but its residues: two polynomials, each data prime, N unsigned 64-bit
little-endian words. Scale, level and form are not transmitted but put in from the agreed parameters, so no
sender can choose them, and a ciphertext is valid exactly if its size fits and each word is below its prime.
That is checked here with plain comparisons; the library never parses a structure that came from the network.

Adding ciphertexts is adding residues modulo their primes.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np

from privacy.errors import AggregationError
from privacy.secagg.parameters import CkksParameters

__all__ = [
    "add_residues",
    "data_primes",
    "decrypt_slots",
    "encrypt_slots",
    "generate_keys",
    "load_context",
    "parse_residues",
]

WORD = np.dtype("<u8")
POLYNOMIALS = 2
# Layout of the library's own format (Microsoft SEAL 4, tensors.proto of TenSEAL), written but never read from
# others.
SEAL_HEADER = struct.Struct("<HBBBBHQ")
COMPRESSION_NONE = 0
CIPHERTEXT_HEAD = struct.Struct("<4QBQQQdQ")
PROTO_SIZES, PROTO_CIPHERTEXTS, PROTO_SCALE = 0x0A, 0x12, 0x19


@lru_cache(maxsize=16)
def data_primes(params: CkksParameters) -> tuple[int, ...]:
    """The primes of the data modulus, in the order of the residues."""
    from tenseal import sealapi

    primes = sealapi.CoeffModulus.Create(params.poly_modulus_degree, list(params.coeff_mod_bits))
    return tuple(prime.value() for prime in primes[:-1])


def generate_keys(params: CkksParameters) -> tuple[bytes, bytes]:
    """A fresh key pair, from the system's randomness: (public context, context with the secret key)."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        params.poly_modulus_degree,
        coeff_mod_bit_sizes=list(params.coeff_mod_bits),
        n_threads=1,
    )
    context.global_scale = 2.0**params.scale_bits
    keep = {"save_public_key": True, "save_galois_keys": False, "save_relin_keys": False}
    return context.serialize(save_secret_key=False, **keep), context.serialize(save_secret_key=True, **keep)


def load_context(data: bytes, params: CkksParameters, *, secret: bool = False) -> Any:
    """A TenSEAL context from trusted (signed or own) bytes.

    Raises:
        AggregationError: if the bytes are no context, or hold other parameters or keys than expected.
    """
    import tenseal

    try:
        context = tenseal.Context.load(bytes(data), 1)
        has_secret = context.has_secret_key()
        probe = tenseal._ts_cpp.CKKSVector(context.data, [0.0], 2.0**params.scale_bits).ciphertext()[0]
        degree, primes = probe.poly_modulus_degree(), probe.coeff_modulus_size()
    except Exception as error:
        raise AggregationError(
            "encryption context: cannot be read; it is damaged or of another version"
        ) from error
    if (degree, primes) != (params.poly_modulus_degree, params.primes_in_data):
        raise AggregationError("encryption context: its parameters are not the agreed ones")
    if has_secret != secret:
        raise AggregationError(f"encryption context: must {'' if secret else 'not '}hold the secret key")
    return context


def encrypt_slots(context: Any, params: CkksParameters, values: list[float]) -> bytes:
    """Encrypt up to `params.slots` numbers (padded with zeros) to the residues of one ciphertext."""
    import tenseal

    padded = values + [0.0] * (params.slots - len(values))
    vector = tenseal._ts_cpp.CKKSVector(context.data, padded, 2.0**params.scale_bits)
    ciphertext = vector.ciphertext()[0]
    count = params.ciphertext_bytes // WORD.itemsize
    return np.fromiter(map(ciphertext.__getitem__, range(count)), dtype=WORD, count=count).tobytes()


def parse_residues(params: CkksParameters, data: bytes) -> np.ndarray:
    """The words [2, primes, N] of a ciphertext; raises ValueError unless size and residues are valid."""
    if len(data) != params.ciphertext_bytes:
        raise ValueError("wrong size")
    words = np.frombuffer(data, dtype=WORD).reshape(
        POLYNOMIALS, params.primes_in_data, params.poly_modulus_degree
    )
    if (words >= _prime_column(params)).any():
        raise ValueError("residue out of range")
    return words


def add_residues(params: CkksParameters, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum of two ciphertexts under encryption; exact, since residues have at most 60 bits."""
    return (first + second) % _prime_column(params)


def decrypt_slots(context: Any, params: CkksParameters, ciphertext: bytes) -> np.ndarray:
    """Decrypt one ciphertext to all of its slots (float64 [slots], real parts, not yet rounded)."""
    import tenseal

    words = parse_residues(params, ciphertext)
    scale = 2.0**params.scale_bits
    vector = tenseal._ts_cpp.CKKSVector(context.data, _library_bytes(context, params, words, scale))
    return np.asarray(vector.decrypt(), dtype=np.float64)


def _prime_column(params: CkksParameters) -> np.ndarray:
    return np.array(data_primes(params), dtype=np.uint64)[:, None]


def _library_bytes(context: Any, params: CkksParameters, words: np.ndarray, scale: float) -> bytes:
    """What TenSEAL itself would have written for these residues, without compression."""
    import tenseal

    probe = tenseal._ts_cpp.CKKSVector(context.data, [0.0], scale)
    magic, header_size, major, minor = _version(probe.serialize())

    def header(body: int) -> bytes:
        size = SEAL_HEADER.size + body
        return SEAL_HEADER.pack(magic, header_size, major, minor, COMPRESSION_NONE, 0, size)

    array = struct.pack("<Q", words.size) + words.tobytes()
    head = CIPHERTEXT_HEAD.pack(
        *probe.ciphertext()[0].parms_id(),
        1,  # evaluation form, as always in CKKS
        POLYNOMIALS,
        params.poly_modulus_degree,
        params.primes_in_data,
        scale,
        1,  # correction factor, unused by CKKS
    )
    body = head + header(len(array)) + array
    ciphertext = header(len(body)) + body
    sizes = _varint(params.slots)
    return b"".join(
        (
            bytes([PROTO_SIZES]) + _varint(len(sizes)) + sizes,
            bytes([PROTO_CIPHERTEXTS]) + _varint(len(ciphertext)) + ciphertext,
            bytes([PROTO_SCALE]) + struct.pack("<d", scale),
        )
    )


def _version(serialized: bytes) -> tuple[int, int, int, int]:
    """Magic number, header size and version of the installed library, from bytes it has just written."""
    start = serialized.index(bytes([PROTO_CIPHERTEXTS]), 2 + serialized[1]) + 1
    while serialized[start] & 0x80:
        start += 1
    return SEAL_HEADER.unpack_from(serialized, start + 1)[:4]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])
