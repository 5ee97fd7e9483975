"""What `join`, `authority`, `serve` and `train --federation` refuse before anything starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import party
from mosaic_secure.client.session import ClientHome, enrol
from mosaic_secure.deployment.kits import load_kit
from mosaic_secure.plan import build_plan
from privacy.canonical import canonical_json

from ..tiny import command, tiny_config


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--epsilon", "1"), "--epsilon: goes with --dry-run alone; what a run may cost is in the policy"),
        (("--config", "digits"), "--config: goes with --dry-run alone"),
        (("--set", "privacy.epsilon=1"), "--set: goes with --dry-run alone"),
        (("--run", "x"), "--run: goes with --withdraw alone"),
        (("--withdraw", "--rejoin"), "--withdraw and --rejoin: give one of them"),
        (("--superlink", "fl"), "--superlink fl: must be HOST:PORT"),
        (("--superlink", "0.0.0.0:8443"), "--superlink 0.0.0.0:8443: must be HOST:PORT"),
        (("--dry-run",), "--dry-run: needs --config"),
        (("--policy", "nowhere.toml"), "--policy: policy nowhere.toml: cannot be read"),
        (("--policy", "nowhere.toml", "--withdraw"), "--policy: does not go with --withdraw or --rejoin"),
        (("--policy", "nowhere.toml", "--rejoin"), "--policy: does not go with --withdraw or --rejoin"),
    ],
)
def test_a_client_is_told_of_what_would_be_passed_over(
    federation: Path, options: tuple[str, ...], told: str
) -> None:
    kit = federation / "kits" / "client-0"
    before = sorted(path.name for path in kit.iterdir())
    assert told in command("join", kit, *options).refusal
    assert sorted(path.name for path in kit.iterdir()) == before


def test_who_leaves_a_run_for_good_hears_that_its_secrets_are_gone(federation: Path) -> None:
    kit = load_kit(federation / "kits" / "client-0")
    home, plan = ClientHome(kit.path, "client-0"), build_plan(tiny_config(engine__name="deployed"))
    texts = (canonical_json(part.to_dict()).decode() for part in (plan.config, plan.budget))
    enrol(home, "run-1", *texts, kit.description.pinned)
    other = command("join", kit.path, "--withdraw", "--run", "run-2")
    assert (other.status, "is destroyed" in other.out) == (0, False)
    left = command("join", kit.path, "--withdraw", "--run", "run-1")
    assert left.status == 0 and "withdrawn from run run-1" in left.out and "is destroyed" in left.out
    with home.ledger() as ledger:
        assert ledger.run("run-1").sealed


def test_rules_are_tried_out_by_a_dry_run_and_not_kept(federation: Path, tmp_path: Path) -> None:
    kit = federation / "kits" / "client-0"
    before = (kit / "policy.toml").read_bytes()
    draft = tmp_path / "draft.toml"
    draft.write_bytes(
        b"# mine\n" + re.sub(rb"max_epsilon_per_run = .*", b"max_epsilon_per_run = 0.5", before)
    )
    run = ("--dry-run", "--config", "digits", "--policy", draft)
    shown = command("join", kit, *run)
    assert "above the policy's cap of 0.5 for one run" in shown.out
    assert "refused" not in command("join", kit, "--dry-run", "--config", "digits").out.splitlines()[-1]
    other = draft.read_bytes().replace(b"digits-3", b"other")
    (tmp_path / "other.toml").write_bytes(other)
    refused = command("join", kit, *run[:-1], tmp_path / "other.toml").refusal
    assert "--policy: " in refused and "is for population 'other'" in refused
    assert (kit / "policy.toml").read_bytes() == before


def test_rules_are_laid_down_byte_for_byte(federation: Path, tmp_path: Path, monkeypatch) -> None:
    kit = load_kit(federation / "kits" / "client-0")
    given = b"# what we agreed in May\n" + kit.rules.read_bytes()
    (tmp_path / "own.toml").write_bytes(given)
    monkeypatch.setattr(party, "_answer", lambda *_: None)
    kit.rules.write_bytes(b"damaged")
    assert command("join", kit.path, "--policy", tmp_path / "own.toml").status == 0
    assert kit.rules.read_bytes() == given and kit.rules.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("host", ["10.255.0.1", "fl.example.org", "[::1]", "1.2.3"])
def test_a_server_listens_at_addresses_of_this_machine_alone(federation: Path, host: str) -> None:
    assert (
        f"--host {host}: must be an address of this machine"
        in command("serve", federation, "--host", host).refusal
    )


@pytest.mark.parametrize("name", ["join", "authority", "serve"])
def test_a_folder_of_another_kind_is_named(federation: Path, name: str) -> None:
    other = federation if name != "serve" else federation / "kits" / "client-0"
    right = "is no kit of" if name != "serve" else "is no folder of a federation"
    assert f"{other}: {right}" in command(name, other).refusal


def test_a_kit_of_another_role_names_the_command_for_it(federation: Path) -> None:
    kits = federation / "kits"
    assert "use mosaic-secure authority" in command("join", kits / "authority").refusal
    assert "use mosaic-secure join" in command("authority", kits / "client-0").refusal


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--clients", "5"), "clients.count = 5: federation digits-3 has 3 clients; use --clients 3"),
        (("--clients", "3", "--config", "mnist"), "--config is about population 'mnist-3'"),
    ],
)
def test_a_run_that_is_for_other_clients_is_not_asked_for(
    federation: Path, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    given = ("--federation", federation, "--out", tmp_path / "run", *options)
    assert told in command("train", *given).refusal
    assert not (tmp_path / "run").exists() and not (federation / "server" / "requests").exists()


def test_images_are_not_dealt_out_to_a_local_cluster(tmp_path: Path) -> None:
    fields = {
        "data.clients_from": "own",
        "data.class_names": "cat,dog",
        "data.declared_records": 100,
        "data.population": "ward",
    }
    given = [text for name, value in fields.items() for text in ("--set", f"{name}={value}")]
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    outcome = command("train", "--local-cluster", 3, "--config", "folder", *given, *places)
    assert "--local-cluster deals out public benchmarks" in outcome.refusal
    assert not list(tmp_path.iterdir())
