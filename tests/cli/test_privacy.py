from __future__ import annotations

from pathlib import Path

import pytest

from mosaic_secure.config import config_names
from privacy.identity import SigningKey
from privacy.ledger import Ledger


def test_configs_lists_what_config_takes(mosaic):
    outcome = mosaic("configs", "--json")
    assert [row["name"] for row in outcome.json["configs"]] == list(config_names())
    assert all(row["about"] for row in outcome.json["configs"])


def test_budget_prints_the_plan(mosaic):
    outcome = mosaic("budget", "--epsilon", 4, "--json")
    assert outcome.status == 0, outcome.err
    plan = outcome.json
    assert 0.99 * 4 <= plan["epsilon"] <= 4 and plan["delta"] == 1e-4
    assert sum(row["share"] for row in plan["releases"]) == pytest.approx(1)
    assert all(row["noise_multiplier"] > 0 for row in plan["releases"])
    assert "noise multiplier" in outcome.out


def test_budget_touches_no_data(mosaic, tmp_path: Path):
    options = ["--config", "fashion_mnist", "--data-root", tmp_path / "nowhere", "--epsilon", "inf"]
    assert mosaic("budget", *options).status == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--delta", "0"], "privacy.delta"),
        (["--trust", "blind"], "privacy.trust"),
        (["--trust", "distributed", "--set", "privacy.honest_clients=9"], "honest_clients"),
        (["--set", "privacy.shares.counts=0.9"], "shares"),
    ],
)
def test_budget_refuses_impossible_plans(mosaic, arguments: list[str], named: str):
    assert named in mosaic("budget", *arguments).refusal


@pytest.fixture
def ledgers(tmp_path: Path) -> Path:
    for party in ("client-0", "client-1"):
        home = tmp_path / "ledgers" / "digits" / party
        with Ledger.open(home, "digits", SigningKey.create(home / "identity.key")):
            pass
    return tmp_path / "ledgers"


def test_ledgers_are_shown_and_verified(mosaic, ledgers: Path):
    shown = mosaic("ledger", "show", ledgers, "--json")
    assert shown.status == 0, shown.err
    assert [ledger["party"] for ledger in shown.json["ledgers"]] == ["client-0", "client-1"]
    assert all(ledger["lifetime_epsilon"] == 0 for ledger in shown.json["ledgers"])
    checked = mosaic("ledger", "verify", ledgers / "digits" / "client-0" / "ledger.jsonl", "--json")
    assert checked.status == 0 and checked.json["verdict"] == "pass"
    assert "a rollback of this ledger is not detected" in checked.out


def test_a_damaged_ledger(mosaic, ledgers: Path):
    file = ledgers / "digits" / "client-1" / "ledger.jsonl"
    file.write_bytes(file.read_bytes().replace(b"client-1", b"client-9"))
    outcome = mosaic("ledger", "verify", ledgers, "--json")
    assert outcome.status == 3 and outcome.json["verdict"] == "fail"
    assert "line 1" in mosaic("ledger", "show", ledgers).refusal


def test_no_ledger_there(mosaic, tmp_path: Path):
    for command in ("show", "verify"):
        assert "expected a ledger.jsonl" in mosaic("ledger", command, tmp_path).refusal
        assert "expected a ledger.jsonl" in mosaic("ledger", command, tmp_path / "nowhere").refusal
