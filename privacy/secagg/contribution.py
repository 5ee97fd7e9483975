"""A client's signed contribution to one encrypted sum, and every check it must pass before it is used.

Layout: magic (8 bytes), header length (4, little-endian), header (canonical JSON), body length (4), body,
Ed25519 signature (64). The signature covers the header, and the header the SHA-256 of the body. All checks
are made on bytes; no library parses anything that came from the network.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import AggregationError, ContributionError
from privacy.identity import SIGNATURE_BYTES, SigningKey, verify
from privacy.secagg.packing import COUNT, frame_ciphertexts, unframe_ciphertexts
from privacy.secagg.parameters import CkksParameters

__all__ = [
    "CODES",
    "Accepted",
    "Contribution",
    "ContributionHeader",
    "Expectation",
    "accept_contributions",
    "contribution_bytes",
    "open_accepted",
    "open_contribution",
    "seal_contribution",
]

MAGIC = b"mosaic1\n"
LENGTH = struct.Struct("<I")
MAX_HEADER = 1024
FRAME_OVERHEAD = len(MAGIC) + 2 * LENGTH.size + SIGNATURE_BYTES
PURPOSE = b"mosaic-secure contribution 1\x00"

# The fixed vocabulary of ContributionError.code.
CODES = (
    "empty",  # no bytes at all
    "too-large",  # more bytes than any valid contribution of this round
    "bad-framing",  # truncated, or lengths that do not add up
    "bad-header",  # not the canonical header of this version
    "unknown-client",  # the named client is not in the roster
    "bad-signature",  # not signed by the named client's key
    "wrong-client",  # signed by another client than the one that sent it
    "wrong-run",  # replayed from another run
    "wrong-round",  # replayed from another round
    "wrong-key",  # encrypted under another public key
    "wrong-parameters",  # encrypted with other parameters
    "wrong-length",  # another number of integers than the plan asks for
    "bad-body",  # the body is not the one that was signed
    "bad-ciphertext",  # signed, but no ciphertexts of the agreed number and size
    "duplicate",  # the same contribution again
    "conflicting",  # another contribution of the same client to the same round
)


@dataclass(frozen=True)
class ContributionHeader:
    """What a contribution says of itself: by whom, for which sum, under which key, how many integers."""

    client: str
    run_id: str
    round_id: str
    key_id: str
    parameters: str
    length: int


@dataclass(frozen=True)
class Expectation:
    """What the receiver asks of every contribution to one sum.

    Args:
        run_id, round_id, key_id: the sum and the public key, as announced.
        params: the agreed CKKS parameters.
        length: integers in the vector, from the plan.
        client: the sender as the transport knows it, or None where contributions come in a batch.
    """

    run_id: str
    round_id: str
    key_id: str
    params: CkksParameters
    length: int
    client: str | None = None

    @property
    def max_bytes(self) -> int:
        """Most bytes that a valid contribution has."""
        ciphertexts = self.params.ciphertexts_for(self.length)
        return FRAME_OVERHEAD + MAX_HEADER + LENGTH.size + ciphertexts * self.params.ciphertext_bytes


@dataclass(frozen=True)
class Contribution:
    """A contribution that has passed every check.

    Attributes:
        header: its signed header.
        ciphertexts: its ciphertexts, each of the agreed size with valid residues.
        digest: SHA-256 (hex) of the signed header, which covers the body; names this very contribution.
    """

    header: ContributionHeader
    ciphertexts: tuple[bytes, ...] = field(repr=False)
    digest: str


@dataclass(frozen=True)
class Accepted:
    """What is remembered of a contribution of a batch that has passed every check: all but its ciphertexts.

    Attributes:
        header, digest: as of the `Contribution`.
        position: where in the batch it is.
    """

    header: ContributionHeader
    digest: str
    position: int


def seal_contribution(header: ContributionHeader, ciphertexts: Sequence[bytes], key: SigningKey) -> bytes:
    """Frame and sign `ciphertexts` (of `encrypt_integers`) as one contribution."""
    body = frame_ciphertexts(ciphertexts)
    text = _header_text(header, hashlib.sha256(body).hexdigest())
    if len(text) > MAX_HEADER:
        raise AggregationError(f"contribution header: {len(text)} bytes; its ids must be shorter")
    signature = key.sign(PURPOSE + text)
    return b"".join((MAGIC, LENGTH.pack(len(text)), text, LENGTH.pack(len(body)), body, signature))


def contribution_bytes(header: ContributionHeader, params: CkksParameters) -> int:
    """Bytes of a contribution with this header, whatever it encrypts."""
    text = _header_text(header, hashlib.sha256().hexdigest())
    body = COUNT.size + params.ciphertexts_for(header.length) * params.ciphertext_bytes
    return FRAME_OVERHEAD + len(text) + body


def open_contribution(data: bytes, expected: Expectation, roster: Mapping[str, bytes]) -> Contribution:
    """Check a contribution completely.

    Args:
        data: bytes from the network.
        expected: what this sum asks for.
        roster: client id -> 32-byte public key.

    Raises:
        ContributionError: with a code of `CODES`, and the client it is attributed to: the sender if the
            transport knows it, else the named client once its signature holds, else None.
    """
    sender = expected.client

    def refuse(code: str) -> ContributionError:
        return ContributionError(code, sender)

    if len(data) == 0:
        raise refuse("empty")
    if len(data) > expected.max_bytes:
        raise refuse("too-large")
    try:
        text, body, signature = _split(bytes(data))
    except (struct.error, ValueError):
        raise refuse("bad-framing") from None
    try:
        header, body_digest = _read_header(text)
    except (ValueError, TypeError):
        raise refuse("bad-header") from None
    if header.client not in roster:
        raise refuse("unknown-client")
    if not verify(roster[header.client], signature, PURPOSE + text):
        raise refuse("bad-signature")
    if sender is not None and header.client != sender:
        raise refuse("wrong-client")
    sender = header.client
    for code, said, wanted in (
        ("wrong-run", header.run_id, expected.run_id),
        ("wrong-round", header.round_id, expected.round_id),
        ("wrong-key", header.key_id, expected.key_id),
        ("wrong-parameters", header.parameters, expected.params.identifier),
        ("wrong-length", header.length, expected.length),
    ):
        if said != wanted:
            raise refuse(code)
    if hashlib.sha256(body).hexdigest() != body_digest:
        raise refuse("bad-body")
    try:
        count = expected.params.ciphertexts_for(expected.length)
        ciphertexts = unframe_ciphertexts(expected.params, body, count)
    except (ValueError, struct.error):
        raise refuse("bad-ciphertext") from None
    return Contribution(header, ciphertexts, hashlib.sha256(text).hexdigest())


def accept_contributions(
    batch: Sequence[bytes], expected: Expectation, roster: Mapping[str, bytes]
) -> tuple[tuple[Accepted, ...], dict[str, str]]:
    """Sort a batch into contributions to be added and refused ones; the order of the batch does not matter.

    One contribution of the batch is in memory at a time, if the batch itself holds them elsewhere. A copy of
    an accepted contribution is counted once. Two different contributions that one client signed for the same
    round are both refused. A forgery in the name of a client does not harm that client's own contribution.

    Returns:
        The accepted contributions by client id, at most one for a client; and the refusals: client id ->
        code, with `contribution-<position>` in place of an id that is not established or already named.
    """
    accepted: dict[str, Accepted] = {}
    conflicting: dict[str, set[str]] = {}
    refused: list[tuple[int, str | None, str]] = []
    for position, data in enumerate(batch):
        try:
            contribution = open_contribution(data, expected, roster)
        except ContributionError as error:
            refused.append((position, error.client, error.code))
            continue
        client = contribution.header.client
        digests = conflicting.setdefault(client, set())
        if contribution.digest in digests:
            refused.append((position, None, "duplicate"))
        elif digests:
            refused.append((position, client, "conflicting"))
            accepted.pop(client, None)
        else:
            accepted[client] = Accepted(contribution.header, contribution.digest, position)
        digests.add(contribution.digest)
    rejected: dict[str, str] = {}
    for position, client, code in refused:
        known = client is not None and client not in accepted and client not in rejected
        rejected[client if known else f"contribution-{position}"] = code
    return tuple(accepted[client] for client in sorted(accepted)), rejected


def open_accepted(
    batch: Sequence[bytes], accepted: Sequence[Accepted], expected: Expectation, roster: Mapping[str, bytes]
) -> Iterator[Contribution]:
    """The accepted contributions of a batch, one after the other, each checked once more.

    Raises:
        ContributionError: one is no longer what it was when it was accepted.
    """
    for item in accepted:
        contribution = open_contribution(batch[item.position], expected, roster)
        if contribution.digest != item.digest:
            raise ContributionError("conflicting", contribution.header.client)
        yield contribution


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header text, body and signature; raises ValueError or struct.error unless the lengths fit exactly."""
    start = len(MAGIC)
    if data[:start] != MAGIC:
        raise ValueError("magic")
    (size,) = LENGTH.unpack_from(data, start)
    if size > MAX_HEADER:
        raise ValueError("header size")
    start += LENGTH.size
    text = data[start : start + size]
    (body_size,) = LENGTH.unpack_from(data, start + size)
    start += size + LENGTH.size
    if len(data) != start + body_size + SIGNATURE_BYTES:
        raise ValueError("total size")
    return text, data[start : start + body_size], data[start + body_size :]


def _header_text(header: ContributionHeader, body_digest: str) -> bytes:
    return canonical_json(_header_dict(header) | {"body": body_digest, "schema_version": 1})


def _header_dict(header: ContributionHeader) -> dict[str, object]:
    return {item.name: getattr(header, item.name) for item in fields(header)}


def _read_header(text: bytes) -> tuple[ContributionHeader, str]:
    """The header and the body's digest; raises ValueError or TypeError for any other text."""
    values = parse_canonical(text)
    if values.pop("schema_version", None) != 1:
        raise ValueError("schema_version")
    digest = values.pop("body", None)
    if type(digest) is not str or type(values.get("length")) is not int:
        raise ValueError("types")
    if any(type(value) is not str for name, value in values.items() if name != "length"):
        raise ValueError("types")
    return ContributionHeader(**values), digest
