"""What a check of `doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "ok", "problem", "warning", "worst"]

Status = Literal["ok", "warning", "problem"]
_ORDER: tuple[Status, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the check, one word or two. status: "ok"; "warning": works, but look at it; "problem": will
            not work, or is not safe. found: one sentence. advice: what to do, empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return {"name": self.name, "status": self.status, "found": self.found, "advice": self.advice}


def ok(name: str, found: str, advice: str = "") -> Finding:
    """All is well."""
    return Finding(name, "ok", found, advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """It works, but somebody should look at it."""
    return Finding(name, "warning", found, advice)


def problem(name: str, found: str, advice: str) -> Finding:
    """It will not work, or is not safe."""
    return Finding(name, "problem", found, advice)


def worst(findings: list[Finding]) -> Status:
    """The gravest status among findings; "ok" of none."""
    return max((finding.status for finding in findings), key=_ORDER.index, default="ok")
