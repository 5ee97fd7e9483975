"""Messages as frozen dataclasses whose every field says what kind of information it carries.

A message class is declared once, with the :func:`message` decorator and, for each field, one of the eight
makers :func:`control`, :func:`public`, :func:`dp_release`, :func:`ciphertext`, :func:`decrypted_sum`,
:func:`signed`, :func:`sealed` and :func:`mask_share`.
The codec, the trust map and the message log all read that one declaration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform, get_args, get_type_hints

import numpy as np

FieldClass = Literal["control", "public", "dp_release", "ciphertext", "sum", "signature", "sealed", "share"]
FIELD_CLASSES: tuple[FieldClass, ...] = get_args(FieldClass)
Role = Literal["server", "client", "authority"]
ROLES: tuple[Role, ...] = ("server", "client", "authority")

Arrays = dict[str, np.ndarray]
KINDS: Mapping[Any, str] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    bytes: "bytes",
    list[str]: "list[str]",
    list[int]: "list[int]",
    list[float]: "list[float]",
    list[bytes]: "list[bytes]",
    Arrays: "arrays",
}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """One field of a message: its name, its kind (a value of :data:`KINDS`) and its field class."""

    name: str
    kind: str
    field_class: FieldClass


class Message:
    """Base of all messages; its class attributes come from :func:`message`."""

    action: ClassVar[str]
    senders: ClassVar[frozenset[str]]
    receivers: ClassVar[frozenset[str]]
    reply: ClassVar[type[Message] | None]

    def __repr__(self) -> str:
        """Names and sizes only: a message in a log line or an exception shows no content."""
        sizes = (f"{spec.name}=<{_size(getattr(self, spec.name))}>" for spec in field_specs(type(self)))
        return f"{type(self).__name__}({', '.join(sizes)})"


def _field(field_class: FieldClass, default: Any, default_factory: Any) -> Any:
    options: dict[str, Any] = {"metadata": {"class": field_class}}
    if default is not dataclasses.MISSING:
        options["default"] = default
    if default_factory is not dataclasses.MISSING:
        options["default_factory"] = default_factory
    return dataclasses.field(**options)


def control(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """Steering only: identifiers, plans, fixed codes. Decided without looking at any record."""
    return _field("control", default, default_factory)


def public(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """Public keys and contexts, and what the server broadcasts (post-processing of releases)."""
    return _field("public", default, default_factory)


def dp_release(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """A budgeted release of one client, with its own local noise: noised counts, DP-trained weights."""
    return _field("dp_release", default, default_factory)


def ciphertext(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """A signed, encrypted contribution of one client; only ever decrypted as part of a sum."""
    return _field("ciphertext", default, default_factory)


def decrypted_sum(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """A decrypted sum over at least ``min_contributors`` clients."""
    return _field("sum", default, default_factory)


def signed(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """A signature, a digest, or the head of a signed chain."""
    return _field("signature", default, default_factory)


def sealed(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """Shares of one client's mask secrets, encrypted for one other client; who carries it cannot read it."""
    return _field("sealed", default, default_factory)


def mask_share(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """Shares of the masks of one round in the clear, given once its contributors are settled."""
    return _field("share", default, default_factory)


@dataclass_transform(
    frozen_default=True,
    eq_default=False,
    kw_only_default=True,
    field_specifiers=(
        control,
        public,
        dp_release,
        ciphertext,
        decrypted_sum,
        signed,
        sealed,
        mask_share,
    ),
)
def message(
    action: str,
    *,
    sender: Role | tuple[Role, ...],
    receiver: Role | tuple[Role, ...],
    reply: type[Message] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Declare a message: keyword-only, frozen, compared by identity, content never in its ``repr``.

    ``action`` is the Flower message type (``"train.x"`` or ``"query.x"``); a reply has its request's action.
    ``sender`` and ``receiver`` are the roles that may send and receive it; ``reply`` is the answer's class.

    Raises:
        TypeError: if a field has no field class or a type that is not in :data:`KINDS`.
    """

    def declare(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)(cls)
        made.action = action
        made.senders = frozenset((sender,) if isinstance(sender, str) else sender)
        made.receivers = frozenset((receiver,) if isinstance(receiver, str) else receiver)
        made.reply = reply
        return made

    return declare


@cache
def field_specs(cls: type[Message]) -> tuple[FieldSpec, ...]:
    """The fields of a message class, in order.

    Raises:
        TypeError: if a field has no field class or a type that is not in :data:`KINDS`.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not declared with @message")
    hints = get_type_hints(cls)
    specs = []
    for item in dataclasses.fields(cls):
        field_class = item.metadata.get("class")
        kind = KINDS.get(hints[item.name])
        if field_class not in FIELD_CLASSES:
            raise TypeError(f"{cls.__name__}.{item.name} has no field class")
        if kind is None:
            raise TypeError(f"{cls.__name__}.{item.name} has a type that messages do not carry")
        specs.append(FieldSpec(item.name, kind, field_class))
    return tuple(specs)


def _size(value: Any) -> str:
    if isinstance(value, dict):
        return f"{len(value)} arrays, {sum(array.nbytes for array in value.values())} bytes"
    if isinstance(value, list):
        return f"{len(value)} items"
    if isinstance(value, str | bytes):
        return f"{len(value)} {'characters' if isinstance(value, str) else 'bytes'}"
    return type(value).__name__
