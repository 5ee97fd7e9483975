"""Messages to and from Flower records, with every type, name and length checked before anything is used.

A message becomes one ``ConfigRecord`` (its scalars, strings, bytes and lists, and the name of its schema)
and one ``ArrayRecord`` for each field of arrays. Arrays travel as raw little-endian bytes with a data type
out of a short list and an exact length, so that no array parser ever meets bytes from the network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mosaic_secure.protocol.fields import FieldSpec, Message, field_specs

if TYPE_CHECKING:
    import flwr.app

SCHEMA_VERSION = 1
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 8
_RAW = "mosaic.raw"
_RECORD = "message"
_SCHEMA = "schema"
_ARRAYS = "arrays."
_SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes}
_LISTS: dict[str, type] = {"list[str]": str, "list[int]": int, "list[float]": float, "list[bytes]": bytes}

M = TypeVar("M", bound=Message)


class ProtocolError(ValueError):
    """A message without the shape that its class declares. Names message and field, never the content."""


def encode(item: Message) -> flwr.app.RecordDict:
    """The Flower records of a message.

    Raises:
        ProtocolError: if a field holds something other than its declared type.
    """
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    cls = type(item)
    config: dict[str, Any] = {_SCHEMA: _schema(cls)}
    records: dict[str, Any] = {}
    for spec in field_specs(cls):
        value = getattr(item, spec.name)
        if spec.kind == "arrays":
            checked = _check_arrays(cls, spec, value)
            records[_ARRAYS + spec.name] = ArrayRecord(
                {
                    name: Array(array.dtype.name, tuple(map(int, array.shape)), _RAW, _raw(array))
                    for name, array in checked.items()
                }
            )
        else:
            _check_plain(cls, spec, value)
            config[spec.name] = value
    return RecordDict({_RECORD: ConfigRecord(config), **records})


def decode(cls: type[M], records: flwr.app.RecordDict) -> M:
    """The message of class ``cls`` in these Flower records. Arrays come back writable and contiguous.

    Raises:
        ProtocolError: if the records are of another message, or a field is missing, unknown or mistyped.
    """
    from flwr.app import ArrayRecord, ConfigRecord

    specs = field_specs(cls)
    config = records.get(_RECORD)
    if not isinstance(config, ConfigRecord):
        raise ProtocolError(f"{cls.__name__}: not a message of this protocol")
    schema = config.get(_SCHEMA)
    if schema != _schema(cls):
        raise ProtocolError(f"{cls.__name__}: the records hold another message or schema version")
    plain = {spec.name for spec in specs if spec.kind != "arrays"}
    arrays = {_ARRAYS + spec.name for spec in specs if spec.kind == "arrays"}
    _same_names(cls, set(config) - {_SCHEMA}, plain)
    _same_names(cls, set(records) - {_RECORD}, arrays)
    values: dict[str, Any] = {}
    for spec in specs:
        if spec.kind == "arrays":
            record = records[_ARRAYS + spec.name]
            if not isinstance(record, ArrayRecord):
                raise ProtocolError(f"{cls.__name__}.{spec.name}: not arrays")
            if len(record) > MAX_ARRAYS:
                raise ProtocolError(f"{cls.__name__}.{spec.name}: more than {MAX_ARRAYS} arrays")
            values[spec.name] = {name: _array(cls, spec, array) for name, array in record.items()}
        else:
            values[spec.name] = config[spec.name]
            _check_plain(cls, spec, values[spec.name])
    return cls(**values)


def field_bytes(value: Any) -> bytes:
    """One canonical byte string of a field's value, for sizes and hashes. Arrays are sorted by name."""
    if isinstance(value, bool):
        return b"\1" if value else b"\0"
    if isinstance(value, int | float):
        return repr(value).encode()
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return b"".join(_framed(field_bytes(part)) for part in value)
    if isinstance(value, dict):
        parts = []
        for name in sorted(value):
            array = value[name]
            head = f"{array.dtype.name}{array.shape}".encode()
            parts.append(_framed(name.encode()) + _framed(head) + _raw(array))
        return b"".join(parts)
    return bytes(value)


def to_flower(item: Message, node_id: int, *, group: str = "", ttl: float | None = None) -> flwr.app.Message:
    """A Flower message that carries a request to a node."""
    from flwr.app import Message as FlowerMessage

    return FlowerMessage(encode(item), node_id, item.action, group_id=group, ttl=ttl)


def reply_to(request: flwr.app.Message, item: Message) -> flwr.app.Message:
    """The Flower message that answers ``request`` with a reply message."""
    from flwr.app import Message as FlowerMessage

    return FlowerMessage(encode(item), reply_to=request)


def from_flower(cls: type[M], received: flwr.app.Message) -> M:
    """The message of class ``cls`` that a Flower message carries.

    Raises:
        ProtocolError: if it carries an error, has another action, or does not decode.
    """
    if received.has_error():
        raise ProtocolError(f"{cls.__name__}: an error came instead (code {received.error.code})")
    if not received.has_content():
        raise ProtocolError(f"{cls.__name__}: the message is empty")
    if received.metadata.message_type != cls.action:
        raise ProtocolError(f"{cls.__name__}: the message has another type")
    return decode(cls, received.content)


def content_bytes(records: flwr.app.RecordDict) -> int:
    """Bytes of the names, numbers, strings and arrays in Flower records; nothing is copied or decoded."""
    from flwr.app import ArrayRecord

    size = 0
    for name, record in records.items():
        size += len(name)
        for key, value in record.items():
            size += len(key)
            if isinstance(record, ArrayRecord):
                size += len(value.data) + len(value.dtype) + len(value.stype) + 8 * len(value.shape)
            else:
                parts = value if isinstance(value, list) else [value]
                size += sum(len(part) if isinstance(part, str | bytes) else 8 for part in parts)
    return size


def _schema(cls: type[Message]) -> str:
    return f"{cls.__name__}/{SCHEMA_VERSION}"


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def _raw(array: np.ndarray) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.tobytes(order="C")


def _same_names(cls: type[Message], found: set[str], declared: set[str]) -> None:
    if missing := sorted(declared - found):
        raise ProtocolError(f"{cls.__name__}: field missing: {missing[0].removeprefix(_ARRAYS)}")
    if found - declared:
        raise ProtocolError(f"{cls.__name__}: {len(found - declared)} unknown field(s)")


def _check_plain(cls: type[Message], spec: FieldSpec, value: Any) -> None:
    where = f"{cls.__name__}.{spec.name}"
    if spec.kind in _SCALARS:
        if type(value) is not _SCALARS[spec.kind]:
            raise ProtocolError(f"{where}: must be {spec.kind}, not {type(value).__name__}")
        values = [value]
    else:
        wanted = _LISTS[spec.kind]
        if type(value) is not list or any(type(part) is not wanted for part in value):
            raise ProtocolError(f"{where}: must be {spec.kind}")
        values = value
    if spec.kind in ("int", "list[int]") and any(not -(2**63) <= part < 2**63 for part in values):
        raise ProtocolError(f"{where}: a number beyond 64 bits")


def _check_arrays(cls: type[Message], spec: FieldSpec, value: Any) -> dict[str, np.ndarray]:
    where = f"{cls.__name__}.{spec.name}"
    if type(value) is not dict or any(type(name) is not str for name in value):
        raise ProtocolError(f"{where}: must be a dict of arrays by name")
    if len(value) > MAX_ARRAYS:
        raise ProtocolError(f"{where}: more than {MAX_ARRAYS} arrays")
    for array in value.values():
        if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES or array.ndim > MAX_DIMENSIONS:
            raise ProtocolError(f"{where}: every value must be a NumPy array of one of {', '.join(DTYPES)}")
    return value


def _array(cls: type[Message], spec: FieldSpec, array: Any) -> np.ndarray:
    where = f"{cls.__name__}.{spec.name}"
    if array.stype != _RAW or array.dtype not in DTYPES:
        raise ProtocolError(f"{where}: an array of a type that messages do not carry")
    shape = tuple(array.shape)
    if len(shape) > MAX_DIMENSIONS or any(type(side) is not int or side < 0 for side in shape):
        raise ProtocolError(f"{where}: an array of an impossible shape")
    dtype = np.dtype(array.dtype)
    if len(array.data) != math.prod(shape) * dtype.itemsize:
        raise ProtocolError(f"{where}: an array whose length does not fit its shape")
    if dtype.kind == "b" and array.data.strip(b"\0\1"):
        raise ProtocolError(f"{where}: a boolean array holds other values")
    flat = np.frombuffer(array.data, dtype.newbyteorder("<")).astype(dtype)
    try:
        return flat.reshape(shape)
    except ValueError:  # no numbers at all, in sides that are too long together
        raise ProtocolError(f"{where}: an array of an impossible shape") from None
