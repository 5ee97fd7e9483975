"""docs/deploy.md and the program agree: its commands and options exist, and its runs can be deployed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mosaic_secure.config import load_config
from mosaic_secure.deployment.founding import found

from ..tiny import command
from .carried_out import CLIENTS
from .manual import Block, as_toml, block, blocks, run_file

CARRIED_OUT = {
    "server": 4,
    "key authority": 3,
    "each client; here client-0": 3,
    "each client, with images of its own; here client-0": 1,
    "each client, later; here client-0": 1,
    "a client that leaves; here client-0": 1,
    "server, to shut client-2 out for good": 1,
    "server, to renew its certificate": 1,
    "server, to go on with a run": 1,
}
NOT_CARRIED_OUT = {
    "one machine, for a trial": 1,
    "every machine, to install": 1,
    "a machine with systemd": 1,
    "a machine with containers, in docs/deploy": 1,
}


def _own(given: Block) -> list[tuple[str, ...]]:
    """Words after mosaic-secure, wherever a command names it."""
    found = [
        words[words.index("mosaic-secure") + 1 :] for words in given.commands if "mosaic-secure" in words
    ]
    return [words for words in found if words and "useradd" not in words]


def test_no_block_of_commands_is_passed_over() -> None:
    counted: dict[str, int] = {}
    for found_block in blocks():
        counted[found_block.place] = counted.get(found_block.place, 0) + 1
    assert counted == CARRIED_OUT | NOT_CARRIED_OUT


def test_commands_and_options_of_the_manual_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    seen = 0
    for found_block in blocks():
        for words in _own(found_block):
            if found_block.place == "a machine with systemd":
                continue
            name = words[:2] if words[0] in ("keys", "ledger") else words[:1]
            shown = command(*name, "--help")
            assert shown.status == 0, (name, shown.err)
            for option in (word for word in words if word.startswith("--")):
                assert option in shown.out, f"mosaic-secure {' '.join(words)}"
                seen += 1
    assert seen > 15


@pytest.mark.parametrize("name", ["trial", "own images"])
def test_a_federation_is_founded_for_the_runs_of_the_manual(name: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(as_toml(run_file(name)), encoding="utf-8")
    config = load_config(file)
    assert config.client_ids == CLIENTS
    assert config.is_public == (name == "trial")
    found(tmp_path / "federation", config, "fl.example.org:8443")
    assert command("budget", "--config", file).status == 0


def test_each_client_and_the_authority_have_a_card_in_the_founding() -> None:
    init = next(words for words in block("server", 1).commands if words[2] == "init")
    cards = [init[at + 1] for at, word in enumerate(init) if word == "--card"]
    sent = block("key authority", 0).commands + block("each client; here client-0", 0).commands
    target = {words[2].partition(":")[2] for words in sent if words[0] == "scp"}
    assert target == {"fl/cards/authority.json", "fl/cards/client-0.json"}
    assert set(cards) == {f"cards/{name}.json" for name in ("authority", *CLIENTS)}
