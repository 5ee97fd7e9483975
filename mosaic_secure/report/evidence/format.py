"""What a pack is called and made of: names, limits, the index, and the signature over it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_secure.errors import UserError
from mosaic_secure.runs.encoding import json_document, parse_json
from privacy.canonical import canonical_json
from privacy.identity import KEY_BYTES, SIGNATURE_BYTES, SigningKey, fingerprint, verify

__all__ = [
    "INDEX",
    "MOST_BYTES",
    "MOST_FILES",
    "SIGNATURE",
    "Index",
    "describe_signer",
    "is_safe_name",
    "parse_public_key",
    "read_index",
    "sign_index",
    "signature_problem",
]

INDEX = "index.json"
SIGNATURE = "signature.json"
KIND = "mosaic-secure evidence pack"
ALGORITHM = "Ed25519"
MOST_FILES = 20_000
MOST_BYTES = 1 << 30
"""Of all files of a pack together; what is larger is not looked at."""
_PURPOSE = "mosaic-secure evidence index 1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,7}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
RUN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Index:
    """A well-formed index.

    Attributes:
        content: all of it. files: name -> (SHA-256 in hexadecimal, size in bytes) of every file but the index
            and its signature. curves: folders of sweeps.
        public: the signer's 32-byte key, as the index names it.
    """

    content: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    curves: tuple[str, ...]
    public: bytes


def is_safe_name(name: str) -> bool:
    """Whether a name is a plain relative path: no way out of a folder, nothing hidden, no odd characters."""
    return _NAME.fullmatch(name) is not None


def describe_signer(public: bytes) -> dict[str, str]:
    """The signer as the index names it."""
    return {"algorithm": ALGORITHM, "public_key": public.hex(), "fingerprint": fingerprint(public)}


def parse_public_key(text: str, name: str) -> bytes:
    """32 bytes from 64 hexadecimal digits; raises UserError that begins with `name`."""
    if not _DIGEST.fullmatch(text.strip().lower()):
        raise UserError(f"{name} {text}: expected the {2 * KEY_BYTES} hexadecimal digits of a public key")
    return bytes.fromhex(text.strip())


def sign_index(key: SigningKey, index: Mapping[str, Any]) -> bytes:
    """The content of signature.json: the signature of the canonical JSON of {"index", "purpose"}."""
    signature = key.sign(_message(index))
    return json_document({**describe_signer(key.public), "signature": signature.hex(), "purpose": _PURPOSE})


def read_index(data: bytes) -> Index:
    """Check the form of an index; raises UserError that says in a few words what is wrong with it."""
    content = parse_json(data, INDEX)
    if json_document(content) != data:
        raise UserError("is not as mosaic-secure writes it")
    try:
        files = {name: (entry["sha256"], entry["bytes"]) for name, entry in content["files"].items()}
        signer = content["signer"]
        runs = [run["run_id"] for run in content["runs"]]
        curves = tuple(curve["folder"] for curve in content.get("curves", ()))
        formed = all(
            is_safe_name(name)
            and _DIGEST.fullmatch(digest)
            and type(length) is int
            and 0 <= length <= MOST_BYTES
            for name, (digest, length) in files.items()
        )
        formed = formed and all(RUN_ID.fullmatch(run) for run in runs) and len(set(runs)) == len(runs)
        formed = formed and all(map(is_safe_name, curves)) and len(set(curves)) == len(curves)
        public = bytes.fromhex(signer["public_key"])
        formed = formed and content["kind"] == KIND and signer == describe_signer(public)
        formed = formed and not {INDEX, SIGNATURE} & files.keys()
    except (KeyError, TypeError, ValueError, AttributeError):
        formed = False
    if not formed:
        raise UserError("lacks fields of an index, or they make no sense")
    if len(files) > MOST_FILES or sum(length for _, length in files.values()) > MOST_BYTES:
        raise UserError(f"lists more than {MOST_FILES} files or {MOST_BYTES} bytes")
    return Index(content, files, curves, public)


def signature_problem(data: bytes, index: Index) -> str | None:
    """What is wrong with signature.json, or None if the key named in the index signed the index."""
    try:
        content = parse_json(data, SIGNATURE)
    except (UserError, RecursionError):
        return "is not the JSON of a signature"
    signature = content.get("signature")
    expected = {
        "schema_version": content["schema_version"],
        **describe_signer(index.public),
        "signature": signature,
        "purpose": _PURPOSE,
    }
    if content != expected or json_document(content) != data:
        return "is not a signature by the key that the index names"
    try:
        raw = bytes.fromhex(signature) if isinstance(signature, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != SIGNATURE_BYTES or not verify(index.public, raw, _message(index.content)):
        return "does not verify: the index is not what was signed"
    return None


def _message(index: Mapping[str, Any]) -> bytes:
    return canonical_json({"index": index, "purpose": _PURPOSE})
