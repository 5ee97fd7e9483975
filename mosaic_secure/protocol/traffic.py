"""What a run's messages amount to, stage by stage: how many there were, and how many bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure.protocol.log import SERVER

__all__ = ["StageTraffic", "told_traffic", "traffic_of", "traffic_rows"]

_METRICS = ("rounds", "messages", "bytes to parties", "bytes to server")
_ON = "messages"
_NUMBERED = re.compile(r"(.*?)-\d+(.*)")


@dataclass(frozen=True)
class StageTraffic:
    """The messages of one kind of stage; rounds of one release are taken together.

    Attributes:
        rounds: how many such stages there were. messages: both ways, failures included.
        to_parties, to_server: bytes of their fields, without what Flower and TLS add.
    """

    stage: str
    rounds: int
    messages: int
    to_parties: int
    to_server: int


def traffic_of(log: Path) -> tuple[StageTraffic, ...]:
    """Traffic by stage, in the order in which stages began, from a ``messages.jsonl``."""
    found: dict[str, tuple[set[str], list[int]]] = {}
    for line in Path(log).read_text("utf-8").splitlines():
        entry: Mapping[str, Any] = json.loads(line)
        stages, sums = found.setdefault(_NUMBERED.sub(r"\1\2", entry["stage"]), (set(), [0, 0, 0]))
        stages.add(entry["stage"])
        sums[0] += 1
        sums[1 if entry["src_role"] == SERVER.role else 2] += sum(
            field["bytes"] for field in entry.get("fields", ())
        )
    return tuple(StageTraffic(name, len(stages), *sums) for name, (stages, sums) in found.items())


def traffic_rows(log: Path) -> list[dict[str, Any]]:
    """The same as rows of ``metrics.jsonl``."""
    return [
        {"metric": metric, "of": item.stage, "on": _ON, "value": value}
        for item in traffic_of(log)
        for metric, value in zip(
            _METRICS, (item.rounds, item.messages, item.to_parties, item.to_server), strict=True
        )
    ]


def told_traffic(rows: Iterable[Mapping[str, Any]]) -> tuple[StageTraffic, ...]:
    """Traffic from the rows of a ``metrics.jsonl``; none where it is of an older version."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.get("on") == _ON and row.get("metric") in _METRICS:
            found.setdefault(str(row["of"]), {})[row["metric"]] = int(row["value"])
    return tuple(
        StageTraffic(stage, *(told.get(name, 0) for name in _METRICS)) for stage, told in found.items()
    )
