"""What a client's disclosure said beforehand, held against the messages that it then sent."""

from __future__ import annotations

import json
from pathlib import Path

from mosaic_secure.client.disclosure import Disclosure, disclose
from mosaic_secure.client.session import POLICY, ledger_population
from mosaic_secure.config import RunConfig
from mosaic_secure.plan import build_plan
from privacy.policy import ClientPolicy

SLACK = 24  # bytes by which a bound may lie above what was sent: digits of a number, "true" for "false"


def disclosed(run: Path, ledgers: Path, client: str) -> Disclosure:
    """What a client would have been told before a run that has ended; its ledger was new then."""
    manifest = json.loads((run / "manifest.json").read_bytes())
    config = RunConfig.from_dict(manifest["config"])
    policy = ClientPolicy.load(ledgers / ledger_population(config) / client / POLICY)
    return disclose(policy, build_plan(config), config.client_ids.index(client), run_id=manifest["run_id"])


def sent(run: Path, client: str) -> list[dict]:
    """The messages of a client in the log of a run."""
    lines = map(json.loads, (run / "messages.jsonl").read_text().splitlines())
    return [line for line in lines if line["src"] == client]


def assert_exact(run: Path, ledgers: Path, client: str) -> None:
    """Every message that was sent was told of before, field by field and byte by byte; and no other."""
    told = [message for message in disclosed(run, ledgers, client).messages if message.stage != "hello"]
    found = sent(run, client)
    stages = [(item["stage"], item["message"]) for item in found]
    assert [(item.stage, item.message) for item in told] == stages
    for before, after in zip(told, found, strict=True):
        assert len(before.fields) == len(after["fields"])
        for field, made in zip(before.fields, after["fields"], strict=True):
            where = before.stage, field.name
            assert (field.name, field.field_class) == (made["name"], made["class"]), where
            if field.is_bound:
                assert made["bytes"] <= field.bytes <= made["bytes"] + SLACK, where
            else:
                assert field.bytes == made["bytes"], where
