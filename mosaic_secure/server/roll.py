"""The roll of a run at the server: who takes part, how they are asked, and whom a stage goes on without."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback
from mosaic_secure.server.courier import LOST, Courier, Refused
from privacy.errors import BudgetError, LedgerError

if TYPE_CHECKING:
    from mosaic_secure.protocol.fields import Message

__all__ = ["Roll"]

AUTHORITY = "authority"
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds


class Roll:
    """Asks the parties of a run and keeps count of those that answer.

    Args:
        courier: reaches all parties.
        roster: client id -> public key (hex); identity of the authority under "authority".
        fewest: clients that every stage needs.
        progress: is told about every client that a stage goes on without.
        patience: seconds to wait for an authority that is away; nothing can go on without it.

    Attributes:
        keys: client id -> public key (hex), of every client of the roster.
        authority: the authority's 32-byte public key.
        clients: those that take part; nobody before enrolment.
    """

    def __init__(
        self,
        courier: Courier,
        roster: Mapping[str, str],
        fewest: int,
        progress: ProgressCallback,
        patience: float = 0.0,
    ) -> None:
        self._patience = patience
        self._courier, self._fewest, self._progress = courier, fewest, progress
        self.authority = bytes.fromhex(roster[AUTHORITY])
        self.keys = {party: key for party, key in roster.items() if party != AUTHORITY}
        self.clients: list[str] = []
        self._left_out: dict[str, dict[str, str]] = {}

    def ask_authority(self, stage: str, request: Message, reply: type) -> Any:
        """The key authority's answer: a `reply`, or `Refused`. It is asked again while it is away."""
        return self.patiently(stage, lambda: self.ask_authority_once(stage, request, reply))

    def ask_authority_once(self, stage: str, request: Message, reply: type) -> Any:
        """As `ask_authority`, for whoever asks again by other means (`patiently`)."""
        return self._courier.ask_one(stage, AUTHORITY, request, reply)

    def patiently(self, stage: str, ask: Callable[[], Any]) -> Any:
        """What `ask` gives. While that is a sign that the authority is away, it is called again.

        All that is asked of the authority may be asked twice: it answers the same.
        """
        end = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while isinstance(answer := ask(), Refused) and answer.code in LOST:
            if time.monotonic() + pause > end:
                break
            self._progress(Progress(stage, note=f"waits for the key authority: {answer.code}"))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return answer

    def answers(
        self, stage: str, requests: Mapping[str, Message], reply: type
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Replies and codes of refusal, each by client in the order of `requests`."""
        answers = self._courier.ask(stage, requests, reply)
        good = {client: answer for client, answer in answers.items() if not isinstance(answer, Refused)}
        bad = {client: answer.code for client, answer in answers.items() if isinstance(answer, Refused)}
        return good, bad

    def ask(self, stage: str, request: Message, reply: type) -> dict[str, Any]:
        """Ask every client that takes part the same; as `ask_each`."""
        return self.ask_each(stage, {client: request for client in self.clients}, reply)

    def ask_each(self, stage: str, requests: Mapping[str, Message], reply: type) -> dict[str, Any]:
        """Replies by client; those that refuse are left out of the stage.

        Raises:
            UserError, BudgetError, LedgerError: too few replied.
        """
        good, bad = self.answers(stage, requests, reply)
        self.leave_out(stage, bad)
        self.need(good, bad, stage)
        return good

    def leave_out(self, stage: str, codes: Mapping[str, str]) -> None:
        """Remember, and tell, which clients a stage goes on without."""
        for client, code in codes.items():
            self._left_out.setdefault(stage, {})[client] = code
            self._progress(Progress(stage, note=f"goes on without {client}: {code}"))

    def left_out(self, stage: str) -> dict[str, str]:
        """Client id -> code of those that a stage went on without, in this attempt at the run."""
        return self._left_out.get(stage, {})

    def need(self, good: Sized, refused: Mapping[str, str], stage: str) -> None:
        """Raise, by what the others refused with, unless `good` are enough clients to go on."""
        if len(good) >= self._fewest:
            return
        listed = ", ".join(f"{client}: {code}" for client, code in refused.items())
        text = f"{stage}: {len(good)} clients are left, the plan needs {self._fewest} ({listed})"
        if set(refused.values()) <= {"budget", "policy"}:
            raise BudgetError(text)
        if "ledger" in refused.values():
            raise LedgerError(text)
        raise UserError(text)
