"""Contributions of one encrypted round at the server: checked as they come, then set aside on disk.

Once it is settled whose are added they stay there until the round is over: the authority decrypts that set or
none, and a run that is resumed must be able to bring them again, even if one of those clients is gone.

With many clients or long vectors they are more than memory, or one message, holds; so clients are asked, and
the authority is sent contributions, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from privacy.errors import AggregationError, ContributionError
from privacy.secagg.contribution import Accepted, Contribution, Expectation, open_accepted, open_contribution
from privacy.secagg.spool import Spool

__all__ = ["Contributions", "in_parts"]

PART_BYTES = 2**24
"""Bytes of messages that are under way at a time; memory holds each a few times over."""
BUSY, MOST_BYTES = 8, 2**28
"""But so many messages at least, which keep workers busy, unless they come to more bytes than that."""

T = TypeVar("T")


def in_parts(items: Sequence[T], bytes_each: int) -> Iterator[Sequence[T]]:
    """`items` in order, as many at a time as have `PART_BYTES` together, or some more; at least one."""
    each = max(1, bytes_each)
    size = max(1, PART_BYTES // each, min(BUSY, MOST_BYTES // each))
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Contributions:
    """What the clients contribute to one sum.

    A `with` block around all that the sum is needed for removes them; if it fails, settled ones stay.

    Args:
        folder: where contributions are set aside meanwhile.
        expected: what the sum asks of each of them.
        keys: client id -> 32-byte public key.

    Attributes:
        faults: client -> code of the check that its contribution has failed.
    """

    def __init__(self, folder: Path, expected: Expectation, keys: Mapping[str, bytes]) -> None:
        self._spool, self._expected, self._keys = Spool(folder), expected, keys
        self._names: dict[str, str] = {}
        self._settled = False
        self._accepted: dict[str, Accepted] = {}
        self.faults: dict[str, str] = {}

    def take(self, client: str, data: bytes) -> None:
        """Check what came from `client`, and keep it or remember its fault."""
        try:
            opened = open_contribution(data, replace(self._expected, client=client), self._keys)
        except ContributionError as error:
            self.faults[client] = error.code
            return
        self.faults.pop(client, None)
        self._accepted[client] = Accepted(opened.header, opened.digest, 0)
        self._names[client] = self._spool.put(data)

    def give_up(self) -> None:
        """Let go of what was settled: nobody will ever add it."""
        self._settled = False

    def settle(self) -> dict[str, str]:
        """From now on the valid ones stay where they are if this fails; their names by client."""
        self._settled = True
        return dict(self._names)

    def restore(self, names: Mapping[str, str]) -> list[str]:
        """Take up those that an earlier attempt settled on: client -> name. The clients of those that are not
        here, or not sound, who must be asked again.

        With no names, what a process left that was killed is removed.
        """
        for client, name in names.items():
            try:
                self.take(client, *self._spool.pick([name]))
            except AggregationError:
                continue
        self._settled = bool(names)
        if not names:
            self._spool.clear()
        return [client for client, name in names.items() if self._names.get(client) != name]

    def __enter__(self) -> Contributions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self._settled:
            self._spool.clear()

    @property
    def valid(self) -> list[str]:
        """Clients that contributed something valid, in order of their ids."""
        return sorted(self._accepted)

    def names(self, clients: Sequence[str]) -> list[str]:
        """SHA-256 (hex) of the contributions of these clients."""
        return [self._names[client] for client in clients]

    def in_parts(self, items: Sequence[str], more: int = 0) -> Iterator[Sequence[str]]:
        """`items`, as many at a time as can be under way with a contribution, and `more` bytes, each."""
        return in_parts(items, self._expected.max_bytes + more)

    def read(self, names: Sequence[str]) -> list[bytes]:
        """The contributions of these names, as they came."""
        return list(self._spool.pick(names))

    def accepted(self, clients: Sequence[str]) -> list[Accepted]:
        """What is remembered of their contributions, each with its position among `clients`."""
        return [replace(self._accepted[client], position=place) for place, client in enumerate(clients)]

    def opened(self, clients: Sequence[str]) -> Iterator[Contribution]:
        """Their contributions, one after the other, each checked once more."""
        kept = self._spool.pick(self.names(clients))
        return open_accepted(kept, self.accepted(clients), self._expected, self._keys)
