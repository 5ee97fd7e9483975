"""What `join`, `authority`, `serve` and `train --federation` refuse before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..tiny import command


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
    ],
)
def test_a_client_is_told_of_what_would_be_passed_over(
    federation: Path, options: tuple[str, ...], told: str
) -> None:
    kit = federation / "kits" / "client-0"
    before = sorted(path.name for path in kit.iterdir())
    assert told in command("join", kit, *options).refusal
    assert sorted(path.name for path in kit.iterdir()) == before


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
