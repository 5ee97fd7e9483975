from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic_secure.engine import local
from mosaic_secure.errors import UserError
from mosaic_secure.report.curve.audits import Attacked, Audited
from mosaic_secure.runs.directory import RunDirectory

from ..mosaic_secure.tiny import SWEEP, command, private_options
from ..mosaic_secure.tiny import tiny_options as tiny


def places(folder: Path) -> list[object]:
    return ["--out", folder / "it", "--ledger-dir", folder / "ledgers"]


def charged(ledgers: Path) -> dict[str, list[str]]:
    """Runs that each party's ledger has charged, from what `ledger show` says."""
    found = command("ledger", "show", ledgers, "--json").json["ledgers"]
    return {
        f"{ledger['population']}/{ledger['party']}": [
            run["run"] for run in ledger["runs"] if run["charged_epsilon"] != 0
        ]
        for ledger in found
    }


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, bool]]:
    """Counts the runs that are really made: (name, resumed)."""
    seen: list[tuple[str, bool]] = []
    train = local.train

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append((options["out"].name, options["resume"]))
        return train(*arguments, **options)

    monkeypatch.setattr(local, "train", counted)
    return seen


def test_points_say_what_the_runs_say(sweep):
    place, outcome = sweep
    runs = [RunDirectory.open(path).manifest for path in (place / "it" / "runs").iterdir()]
    assert len(runs) == 2 * (3 + 2 * 2)  # mosaic at 1, 4 and without noise; two baselines at 1 and 4
    points = {point["epsilon"]: point for point in outcome.json["points"]}
    assert list(points) == [1, 4, "inf"]
    for epsilon, point in points.items():
        own = [
            run["result"]["accuracy"]
            for run in runs
            if run["result"]["method"] == "mosaic" and run["config"]["privacy"]["epsilon"] == epsilon
        ]
        low, high = point["accuracy_ci95"]
        assert point["seeds"] == len(own) == 2 and point["accuracy_mean"] == pytest.approx(np.mean(own))
        assert 0 <= low <= point["accuracy_mean"] <= high <= 1
        assert sorted(point["accuracy_by_seed"].values()) == sorted(own)
    # e * 0.01 + delta at epsilon 1, and nothing forbids anything without noise
    assert 0.026 < points[1]["tpr_ceiling_at_fpr_0.01"] < 0.0273 and points["inf"]["epsilon_spent"] == "inf"
    assert points["inf"]["tpr_ceiling_at_fpr_0.01"] == 1
    assert set(outcome.json["baselines"]) == {"central", "local"}
    for name, found in outcome.json["baselines"].items():
        assert [point["epsilon"] for point in found] == [1, 4], name
    assert outcome.json["choice"]["epsilon"] == 1 and "epsilon at most 2" in outcome.json["choice"]["reason"]
    assert outcome.json["choice"]["reason"] in outcome.out


def test_the_files_hold_the_same_numbers(sweep):
    place, outcome = sweep
    stored = json.loads((place / "it" / "curve.json").read_text())
    assert stored["points"] == outcome.json["points"] and stored["choice"] == outcome.json["choice"]
    lines = list(csv.DictReader(io.StringIO((place / "it" / "curve.csv").read_text())))
    assert [(line["method"], line["epsilon"]) for line in lines[:3]] == [
        ("mosaic", "1.0"),
        ("mosaic", "4.0"),
        ("mosaic", "inf"),
    ]
    assert len(lines) == 7
    for line, point in zip(lines, stored["points"], strict=False):
        assert float(line["accuracy_mean"]) == point["accuracy_mean"]
        assert float(line["accuracy_low"]) == point["accuracy_ci95"][0]
    assert all(Path(file).is_file() for file in outcome.json["written"])


def test_looking_at_public_data_is_free_and_says_what_private_data_would_pay(sweep):
    place, outcome = sweep
    looking = outcome.json["looking"]
    spent = sum(2 * point["epsilon_spent"] for point in outcome.json["points"][:2])
    assert looking["public"] and looking["epsilon"] == pytest.approx(spent) and looking["releasing"] == 4
    assert looking["delta"] == pytest.approx(4e-4)
    assert "costs nobody's privacy" in outcome.err and looking["sentence"] in outcome.out


def test_another_call_trains_nothing_and_may_choose_otherwise(sweep, trained, tmp_path: Path):
    place, outcome = Path(shutil.copytree(sweep[0], tmp_path / "copy")), sweep[1]
    before = charged(place / "ledgers")
    again = command("curve", *SWEEP, "--min-accuracy", "0.999", *tiny(), *places(place), "--json")
    assert again.status == 0 and not trained and again.json["points"] == outcome.json["points"]
    assert again.json["choice"]["epsilon"] is None and "comes nearest" in again.json["choice"]["reason"]
    assert charged(place / "ledgers") == before
    assert all(len(runs) == len(set(runs)) for runs in before.values())
    other = command("curve", *SWEEP, *tiny(gate__steps=5), *places(place))
    assert "another sweep: it has other settings" in other.refusal
    more = command("curve", "--epsilons", "1,4", "--seeds", "3", *tiny(), *places(place))
    assert "another sweep: it lacks" in more.refusal and not trained


def test_what_was_interrupted_goes_on_and_is_charged_once(trained, monkeypatch, tmp_path: Path):
    options = ["--epsilons", "4", "--seeds", "1", "--baselines", "none", *tiny()]
    train = local.train

    def stopped(config: Any, **options: Any) -> Any:
        def tell(progress: Any) -> None:
            if config.no_noise and progress.stage == "prototypes":
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, **{**options, "progress": tell})

    with monkeypatch.context() as patch:
        patch.setattr(local, "train", stopped)
        outcome = command("curve", *options, *places(tmp_path))
    line = outcome.err.splitlines()[-1]
    assert outcome.status == 130 and line.startswith("interrupted after 1 of 2 runs"), outcome.err
    assert len(json.loads((tmp_path / "it" / "curve.json").read_text())["points"]) == 1
    begun = charged(tmp_path / "ledgers")
    assert all(len(runs) == 2 for runs in begun.values())  # the second run had begun to release
    program, name, *arguments = shlex.split(line.partition("continue with: ")[2])
    assert (program, name) == ("mosaic-secure", "curve")
    trained.clear()
    outcome = command(name, *arguments, "--json")
    assert outcome.status == 0, outcome.err
    ((slug, resumed),) = trained
    assert "epsinf" in slug and resumed and len(outcome.json["points"]) == 2
    assert charged(tmp_path / "ledgers") == begun


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_is_charged_once(trained, tmp_path: Path):
    options = ["--epsilons", "1,4", "--seeds", "1", "--baselines", "none", *tiny(), *places(tmp_path)]
    code = "import sys; from cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "curve", *map(str, options)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 240
        while (
            not any((tmp_path / "it" / "runs").glob("*eps4-*/checkpoints/centre*")) and time.monotonic() < end
        ):
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    begun = charged(tmp_path / "ledgers")
    assert all(len(runs) == 2 for runs in begun.values()), "the second run had begun to release"
    outcome = command("curve", *options, "--json")
    assert outcome.status == 0, outcome.err
    assert [("eps4" in name, "epsinf" in name, resumed) for name, resumed in trained] == [
        (True, False, True),
        (False, True, False),
    ]
    for party, runs in charged(tmp_path / "ledgers").items():
        assert runs[:2] == begun[party] and len(runs) == 3


def test_audits_and_an_ablation_are_made_once(trained, quick_inversion, monkeypatch, tmp_path: Path):
    options = ["--epsilons", "4", "--seeds", "1", "--baselines", "none", "--max-tpr", "0.9", *tiny()]
    outcome = command("curve", *options, "--audit", "--ablate", *places(tmp_path), "--json")
    assert outcome.status == 0, outcome.err
    assert [name for name, _ in trained][-1] == "eps4.0" and len(trained) == 3
    held, free = outcome.json["points"]
    for point in (held, free):
        (audit,) = point["audits"].values()
        record = json.loads((tmp_path / "it" / audit / "audit.json").read_text())
        rates = {
            f"{kind}: {name}": next(row for row in found["caught"] if row["fpr"] == 0.01)["rate"]["value"]
            for kind in ("membership", "synthetic")
            for name, found in record[kind].items()
            if not name.startswith("near")
        }
        assert sorted(rates.values()) == sorted(found["rate"] for found in point["attacks"].values())
        assert point["attack_tpr_at_fpr_0.01"] == max(rates.values())
    assert held["attack_tpr_at_fpr_0.01"] < 0.2 and held["epsilon_lower_bound"] is None
    assert "upper end of the audits' strongest attack" in outcome.json["choice"]["reason"]
    parts = {row["without"]: row for row in outcome.json["ablation"]}
    assert parts["prototype expert"]["worth"] is not None and "prototype expert" in outcome.out
    page = Path(outcome.json["report"])
    assert page.name == "curve.html" and "prototype expert" in page.read_text()

    def never(*_: Any, **__: Any) -> Any:
        raise RuntimeError("this was done before")

    monkeypatch.setattr("mosaic_secure.audit.run_audit.audit", never)
    again = command("curve", *options, "--audit", "--ablate", *places(tmp_path), "--json")
    assert again.status == 0 and again.json["points"] == outcome.json["points"] and len(trained) == 3

    def refuted(_path: Any, request: Any, _progress: Any) -> Any:
        asked.append((request.claim, request.retrain))
        raise UserError("too few canaries")

    asked: list[Any] = []
    monkeypatch.setattr("mosaic_secure.audit.run_audit.audit", refuted)
    more = command("curve", *options, "--audit", "--retrain", *places(tmp_path), "--json")
    assert more.status == 1 and asked == [(None, True)]  # without noise there is no claim to test
    (failed,) = more.json["failed"]
    assert failed["reason"] == "too few canaries" and failed["run"].startswith("audit of mosaic")


def test_a_refuted_claim_ends_with_status_3_and_is_not_chosen(sweep, monkeypatch, tmp_path: Path):
    place = Path(shutil.copytree(sweep[0], tmp_path / "copy"))
    attacks = {"model: confidence": Attacked(0.5, 0.4, 0.6)}
    found = Audited(attacks, "fail", "The claim is refuted.", 5.0, 6.0, "somewhere")
    monkeypatch.setattr("mosaic_secure.report.curve.gather.finished_audit", lambda *_, **__: found)
    outcome = command("curve", *SWEEP, "--max-epsilon", "8", *tiny(), *places(place), "--json")
    assert outcome.json["choice"] == {
        "epsilon": None,
        "reason": "No epsilon is chosen: audits refute what the runs promise.",
    }
    assert len(outcome.json["refuted"]) == 4, "a run without noise promises nothing that could be refuted"
    assert outcome.status == 3 and "refuted: epsilon 1, seed 0: The claim is refuted." in outcome.out
    assert outcome.json["points"][0]["epsilon_lower_bound"] == 5.0


def test_private_data_pay_for_every_point_or_the_sweep_is_refused(trained, tmp_path: Path):
    options = private_options(tmp_path)
    dear = command("curve", "--epsilons", "2,4", "--seeds", "2", *options, *places(tmp_path))
    assert "client-0: the sweep of 4 runs needs epsilon" in dear.refusal and "0 of 10 spent" in dear.refusal
    high = command("curve", "--epsilons", "9", "--seeds", "1", *options, *places(tmp_path))
    assert "max_epsilon_per_run" in high.refusal
    many = command("curve", "--epsilons", "0.1", "--seeds", "11", *options, *places(tmp_path))
    assert "needs delta 0.00011" in many.refusal
    goal = command("curve", "--epsilons", "2", "--min-accuracy", "0.5", *options, *places(tmp_path))
    assert "report no accuracy" in goal.refusal
    for option in ("--audit", "--ablate"):
        assert option in command("curve", "--epsilons", "2", option, *options, *places(tmp_path)).refusal
    assert not trained and {path.name for path in tmp_path.iterdir()} == {"DATA"}

    sweep = ["--epsilons", "2,4", "--seeds", "1", *options]
    outcome = command("curve", *sweep, *places(tmp_path), "--json")
    assert outcome.status == 0, outcome.err
    assert [point["epsilon"] for point in outcome.json["points"]] == [2, 4]  # none without noise
    assert not outcome.json["baselines"] and outcome.json["choice"] is None
    assert all(point["accuracy_mean"] is None for point in outcome.json["points"])
    assert "every point of a sweep is a release" in outcome.err
    spent = {
        ledger["lifetime_epsilon"]
        for ledger in command("ledger", "show", tmp_path / "ledgers", "--json").json["ledgers"]
    }
    assert spent == {outcome.json["looking"]["epsilon"]}
    again = command("curve", *sweep, *places(tmp_path))
    assert again.status == 0 and len(trained) == 2  # what is charged is not asked for again
    elsewhere = command("curve", *sweep, "--out", tmp_path / "new", "--ledger-dir", tmp_path / "ledgers")
    assert "the sweep of 2 runs needs" in elsewhere.refusal and not (tmp_path / "new").exists()


def test_a_public_test_part_tells_nothing_of_what_private_clients_hold(tmp_path: Path):
    options = private_options(tmp_path)
    shutil.copytree(tmp_path / "DATA" / "north", tmp_path / "TEST")
    options += ["--set", f"data.test_path={tmp_path / 'TEST'}", "--set", "data.test_visibility=public"]
    sweep = ["--epsilons", "1,2", "--seeds", "1", "--max-tpr", "0.05", *options, *places(tmp_path)]
    outcome = command("curve", *sweep, "--json")
    assert outcome.status == 0, outcome.err
    for point in outcome.json["points"]:
        assert point["accuracy_mean"] is not None and set(point["accuracy_by_class"]) == {"well", "ill"}
        assert not any(point["accuracy_by_client"].values())
    kept = [json.loads(path.read_bytes())["scores"] for path in (tmp_path / "it" / "scores").iterdir()]
    assert len(kept) == 2 and all(not scores["by_client"] and not scores["holds"] for scores in kept)
    # each run alone keeps epsilon 1 below 5 %; whoever saw the whole sweep may catch more
    assert outcome.json["points"][0]["tpr_ceiling_at_fpr_0.01"] < 0.05
    assert outcome.json["choice"]["epsilon"] is None and "Whoever saw all of them" in outcome.out
    assert str(tmp_path) not in (tmp_path / "it" / "curve.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epsilons", ""], "names no budget"),
        (["--epsilons", ","], "names no budget"),
        (["--epsilons", "0"], "number above 0"),
        (["--epsilons", "1,x"], "'x'"),
        (["--seeds", "0"], "--seeds 0: must be"),
        (["--seeds", "-1"], "--seeds -1: must be"),
        (["--baselines", "mosaic"], "no baseline"),
        (["--baselines", "nobody"], "no baseline"),
        (["--trust", "local,distributed"], "--trust"),
        (["--alpha", "0.1,1"], "--alpha"),
        (["--preset", "nothing"], "preset"),
        (["--min-accuracy", "90"], "--min-accuracy 90"),
        (["--min-accuracy", "0.9", "--seeds", "1"], "--seeds 2"),
        (["--max-epsilon", "0"], "--max-epsilon"),
        (["--max-tpr", "2"], "--max-tpr"),
        (["--retrain"], "add --audit"),
        (["--set", "privacy.epsilon=3"], "use --epsilons"),
        (["--set", "method=fedavg"], "use --baselines"),
        (["--set", "privacy.max_epsilon_lifetime=3"], "needs epsilon"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(trained, tmp_path: Path, arguments: list[str], named: str):
    assert named in command("curve", *arguments, *places(tmp_path)).refusal
    assert not trained and not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_runs_and_what_they_cost(trained, tmp_path: Path):
    options = ["--epsilons", "1", "--seeds", "1", *places(tmp_path), "--dry-run", "--json"]
    found = command("curve", *options).json
    names = {row["run"].partition("-")[0] for row in found["runs"]}
    assert names == {"mosaic", "central", "local"} and len(found["runs"]) == 4
    assert 0.9 < found["looking"]["epsilon"] <= 1 and not trained and not list(tmp_path.iterdir())


def test_a_damaged_run_is_told_and_the_rest_is_drawn(sweep, tmp_path: Path):
    place, outcome = sweep
    shutil.copytree(place / "it", tmp_path / "it")
    shutil.rmtree(tmp_path / "it" / "scores")
    broken = next(path for path in (tmp_path / "it" / "runs").iterdir() if "eps4-seed1" in path.name)
    (broken / "global_model.safetensors").write_bytes(b"not a model")
    places = ["--out", tmp_path / "it", "--ledger-dir", place / "ledgers"]
    found = command("curve", *SWEEP, *tiny(), *places, "--json")
    assert found.status == 1 and [row["run"] for row in found.json["failed"]] == [broken.name]
    assert found.json["points"][0]["ece_mean"] == outcome.json["points"][0]["ece_mean"]
    assert broken.name in (tmp_path / "it" / "curve.html").read_text()
