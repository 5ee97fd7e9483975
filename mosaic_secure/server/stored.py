"""What lies on disk, as a mapping that reads one entry at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

__all__ = ["Stored"]

T = TypeVar("T")


class Stored(Mapping[str, T]):
    """Values by name, each read or made anew whenever it is asked for, and kept by nobody here.

    Args:
        names: in order.
        make: name -> value, the same at every call.
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], T]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
