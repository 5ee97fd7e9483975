"""CKKS parameters for sums: which are safe, how large a sum they hold and how exactly it decodes.

Only additions happen under encryption, so a ciphertext lives at one level: the *data modulus* is the product
of all primes but the last, which serves encryption alone. Integers are scaled by 2^scale_bits and encoded in
slots.

**Capacity.** A coefficient of the encoded polynomial is never larger than scale * max|slot|, and decodes
right while it stays under half the data modulus. With 60 data bits and scale 2^28 this is |sum| <= 2^31 - 1.
Beyond it values wrap silently.

**Error.** Fresh encryption ends with a division by the last prime; what remains is rounding noise r0 + r1*s
with r uniform in +-1/2 and a ternary secret s: variance (1 + 2N/3)/12 per coefficient, so that a slot of a
sum of n ciphertexts is off with standard deviation d = sqrt(n * N/2 * (1 + 2N/3)/12) / scale. It is not
Gaussian: |s| differs from slot to slot (exponential in the square) but is the same in all ciphertexts of a
key, which makes the error of a random slot Laplace-distributed with tail exp(-sqrt(2) t / d). Double
precision adds about |sum| * 2^-50.

**Measured** with the defaults (N = 8192, [60, 60], scale 2^28): d is 1,363 to 1,370 units of 2^-28 over
three keys (formula: 1,365), and its square varies over slots as an exponential does. Sums at +-max_sum, of
equal and of random signs, all decode exactly; the largest error times 2^10 over 4096 slots is 0.04 to 0.06
for 2 contributors, 0.09 to 0.12 for 10, 0.39 to 0.52 for 200 and 0.96 for 1000, and 0.75 over 150,000 slots
for 200. The bound used here (one slot in 10^7 exceeds it) gives 0.09, 0.19, 0.84 and 1.88: sums of up to
282 contributors keep the rounding step at 2^10 times the error. A single contribution holds |value| <= 2^30
- 1, since the encoder wants one bit more than a sum. A scale of 2^29 halves both error and range and allows
1,132 contributors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from privacy.canonical import canonical_json
from privacy.errors import AggregationError

# Largest total modulus (bits) for 128-bit classical security with a ternary secret: Homomorphic Encryption
# Standard (Albrecht et al. 2018), table 1.
SECURITY_BITS = 128
MAX_MODULUS_BITS: Mapping[int, int] = MappingProxyType(
    {2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
)
ROUNDING_STEP = 1
ERROR_MARGIN = 2**10
TAIL = math.log(1e7) / math.sqrt(2)  # standard deviations: one slot in 10^7 exceeds this (Laplace tail)
DOUBLE_PRECISION_ERROR = 2.0**-50  # relative, of encoding and decoding
LARGEST_MAX_SUM = 2**36  # beyond it double precision alone breaks the margin


@dataclass(frozen=True)
class CkksParameters:
    """Parameters of one CKKS context for sums of integers.

    Args:
        poly_modulus_degree: N, a power of two from 2048 to 32768; a ciphertext holds N/2 integers.
        coeff_mod_bits: bits of the primes, 20 to 60 each; the last one is used by encryption alone. Their
            total must give 128-bit security at N.
        scale_bits: an integer is multiplied by 2^scale_bits before it is encoded.

    Raises:
        AggregationError: naming the field that is out of range.
    """

    poly_modulus_degree: int = 8192
    coeff_mod_bits: tuple[int, ...] = (60, 60)
    scale_bits: int = 28

    def __post_init__(self) -> None:
        object.__setattr__(self, "coeff_mod_bits", tuple(self.coeff_mod_bits))
        if self.poly_modulus_degree not in MAX_MODULUS_BITS:
            raise AggregationError(
                f"poly_modulus_degree: {self.poly_modulus_degree!r}; must be one of "
                f"{sorted(MAX_MODULUS_BITS)}"
            )
        if len(self.coeff_mod_bits) < 2 or any(
            type(bits) is not int or not 20 <= bits <= 60 for bits in self.coeff_mod_bits
        ):
            raise AggregationError(
                f"coeff_mod_bits: {self.coeff_mod_bits!r}; must be at least two whole numbers from 20 to 60"
            )
        allowed = MAX_MODULUS_BITS[self.poly_modulus_degree]
        if sum(self.coeff_mod_bits) > allowed:
            raise AggregationError(
                f"coeff_mod_bits: {sum(self.coeff_mod_bits)} bits in total fall short of {SECURITY_BITS}-bit "
                f"security at poly_modulus_degree {self.poly_modulus_degree}; at most {allowed} bits"
            )
        if type(self.scale_bits) is not int or not 1 <= self.scale_bits <= self.data_bits - 2:
            raise AggregationError(
                f"scale_bits: {self.scale_bits!r}; must be a whole number from 1 to {self.data_bits - 2}"
            )
        if self.max_contributors < 2:
            raise AggregationError(
                f"scale_bits: {self.scale_bits}; the decoding error of a sum of two must stay under 2^-10, "
                "which needs a larger scale"
            )

    @property
    def slots(self) -> int:
        """Integers in one ciphertext."""
        return self.poly_modulus_degree // 2

    @property
    def data_bits(self) -> int:
        """Bits of the modulus that a ciphertext lives under."""
        return sum(self.coeff_mod_bits[:-1])

    @property
    def max_sum(self) -> int:
        """Largest |integer| that a slot of a sum surely holds; a larger one wraps silently."""
        return min(2 ** (self.data_bits - 1 - self.scale_bits), LARGEST_MAX_SUM) - 1

    @property
    def max_value(self) -> int:
        """Largest |integer| of a single contribution: the encoder wants one bit more than a sum."""
        return (self.max_sum + 1) // 2 - 1

    @property
    def security_bits(self) -> int:
        """Classical security level; parameters below it cannot be constructed."""
        return SECURITY_BITS

    @property
    def rounding_step(self) -> int:
        """Decoded sums are rounded to multiples of this; at least 2^10 times the decoding error."""
        return ROUNDING_STEP

    def decode_error(self, contributors: int) -> float:
        """Bound, exceeded by one slot in 10^7, of |decoded slot - true sum| before rounding."""
        degree = self.poly_modulus_degree
        deviation = math.sqrt(contributors * degree / 2 * (1 + 2 * degree / 3) / 12) / 2.0**self.scale_bits
        return TAIL * deviation + self.max_sum * DOUBLE_PRECISION_ERROR

    @property
    def max_contributors(self) -> int:
        """Most contributions whose sum keeps the margin between rounding step and decoding error."""
        room = self.rounding_step / ERROR_MARGIN - self.max_sum * DOUBLE_PRECISION_ERROR
        if room <= 0:
            return 0
        single = self.decode_error(1) - self.max_sum * DOUBLE_PRECISION_ERROR
        return math.floor((room / single) ** 2)

    @property
    def primes_in_data(self) -> int:
        """Number of primes of the data modulus."""
        return len(self.coeff_mod_bits) - 1

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext on the wire: two polynomials of 64-bit residues for each data prime."""
        return 2 * self.primes_in_data * self.poly_modulus_degree * 8

    def ciphertexts_for(self, length: int) -> int:
        """Ciphertexts that `length` integers fill."""
        return -(-length // self.slots)

    @property
    def identifier(self) -> str:
        """Name of exactly these parameters: 16 hex digits."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()[:16]

    def check_capacity(self, bound: int, contributors: int = 1) -> None:
        """Refuse a plan whose sums could overflow or lose exactness.

        Args:
            bound: largest possible |sum| over all contributors, in integer units.
            contributors: how many contributions are added.

        Raises:
            AggregationError: with the limit that is broken.
        """
        if isinstance(bound, bool) or not isinstance(bound, int) or not 1 <= bound <= self.max_sum:
            raise AggregationError(
                f"magnitude bound: {bound!r} does not fit the encryption; it must be a whole number "
                f"from 1 to {self.max_sum}; use a coarser grid or a smaller clip"
            )
        if not 1 <= contributors <= self.max_contributors:
            raise AggregationError(
                f"contributors: {contributors}; these parameters decode sums of at most "
                f"{self.max_contributors} (and at least 1) exactly"
            )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "poly_modulus_degree": self.poly_modulus_degree,
            "coeff_mod_bits": list(self.coeff_mod_bits),
            "scale_bits": self.scale_bits,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> CkksParameters:
        """The parameters that `to_dict` wrote; raises AggregationError for anything else."""
        if not isinstance(values, Mapping) or set(values) != set(cls().to_dict()):
            raise AggregationError("parameters: must have poly_modulus_degree, coeff_mod_bits and scale_bits")
        if not isinstance(values["coeff_mod_bits"], list | tuple):
            raise AggregationError(
                f"coeff_mod_bits: {values['coeff_mod_bits']!r}; must be a list of whole numbers"
            )
        try:
            return cls(values["poly_modulus_degree"], tuple(values["coeff_mod_bits"]), values["scale_bits"])
        except TypeError as error:
            raise AggregationError("parameters: must be whole numbers") from error
