"""Errors of the privacy library.

Each says in one line what is wrong and what would be right. None carries a secret, a record or a statistic of
records: their text may be logged and may travel.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AggregationError",
    "BudgetError",
    "ContributionError",
    "LedgerDamaged",
    "LedgerError",
    "LedgerRollback",
    "PolicyError",
    "PrivacyError",
    "ReleaseConflict",
    "UnsafeModelError",
]


class PrivacyError(ValueError):
    """Base of every error that the privacy library raises on purpose."""


class BudgetError(PrivacyError):
    """A budget cannot be planned or spent: a value out of range, shares that do not fit, or a broken cap."""


class PolicyError(BudgetError):
    """A client's own policy does not allow what a run asks for, or is not fit to say so."""


class LedgerError(PrivacyError):
    """A client's ledger refuses a step or cannot be used."""


class LedgerDamaged(LedgerError):
    """A ledger's file does not verify: its chain, a signature or the format of a line is broken."""


class LedgerRollback(LedgerError):
    """A ledger is older than a head that the key authority has countersigned."""


class ReleaseConflict(LedgerError):
    """A release that was already made is asked for again with other inputs."""


class ContributionError(PrivacyError):
    """One client's contribution to an encrypted sum is refused; the round may go on without it.

    Args:
        code: short word from a fixed vocabulary that names the failed check, such as ``"bad-signature"``. It
            depends on the form of the message only, never on what it encrypts.
        client: id of the client that the failure is attributed to; ``None`` where no sender is established.
        detail: one optional sentence for the reader, free of secrets and of data.
    """

    def __init__(self, code: str, client: str | None = None, detail: str = "") -> None:
        self.code = code
        self.client = client
        self.detail = detail
        sender = f"contribution of {client}" if client else "contribution of an unknown sender"
        super().__init__(f"{sender} refused: {code}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[type[ContributionError], tuple[str, str | None, str]]:
        return type(self), (self.code, self.client, self.detail)


class AggregationError(PrivacyError):
    """An encrypted sum cannot be formed, decrypted or trusted; the round is named in the text."""


class UnsafeModelError(PrivacyError):
    """A model has layers that mix the records of a batch, so no per-record bound exists.

    Args:
        problems: one sentence for each offending layer: its name, what is wrong, and the fix.

    Attributes:
        problems: those sentences, as a list.
    """

    def __init__(self, problems: Iterable[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("the model mixes records of a batch: " + "; ".join(self.problems))

    def __reduce__(self) -> tuple[type[UnsafeModelError], tuple[list[str]]]:
        return type(self), (self.problems,)
