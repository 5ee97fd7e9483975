from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.config import RunConfig, config_hash, load_config
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.runs.directory import RunDirectory

ROOT = Path(__file__).parents[2]


class Result:
    def to_dict(self) -> dict[str, Any]:
        return {
            "run": "runs/x",
            "dataset": "digits",
            "accuracy": 0.91,
            "epsilon": float("inf"),
            "ablation": [{"part": "gate", "accuracy": 0.9}],
        }


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, Any]]:
    """Replaces the federation by one that only notes how it was called."""
    seen: list[dict[str, Any]] = []

    def train(config: RunConfig, **options: Any) -> Result:
        seen.append({"config": config, **options})
        options["progress"](Progress("prototypes", 1, 2))
        options["progress"](Progress("prototypes", 2, 2, "done"))
        return Result()

    module = types.ModuleType("mosaic_secure.engine.local")
    module.train = train
    monkeypatch.setitem(sys.modules, "mosaic_secure.engine.local", module)
    return seen


def test_options_reach_the_configuration(mosaic, calls, tmp_path: Path):
    fields = {
        "--epsilon": 2,
        "--delta": 1e-5,
        "--clients": 4,
        "--partition": "iid",
        "--trust": "distributed",
        "--seed": 7,
        "--device": "cpu",
        "--data-root": "/data",
        "--ledger-dir": tmp_path / "ledgers",
        "--out": tmp_path / "run",
    }
    given = [text for option in fields.items() for text in option]
    settings = ["--set", "gate.steps=11", "--set", "privacy.honest_clients=3"]
    outcome = mosaic("train", *given, *settings, "--ablate")
    assert outcome.status == 0, outcome.err
    (call,) = calls
    config: RunConfig = call["config"]
    assert (config.privacy.epsilon, config.privacy.delta, config.privacy.trust) == (2, 1e-5, "distributed")
    assert (config.clients.count, config.partition.kind, config.seed) == (4, "iid", 7)
    assert (config.engine.device, config.data.root, config.gate.steps) == ("cpu", "/data", 11)
    assert call["out"] == tmp_path / "run" and call["ledger_dir"] == tmp_path / "ledgers"
    assert call["ablate"] is True and call["resume"] is False


def test_output_ends_with_json_and_progress_stays_apart(mosaic, calls):
    outcome = mosaic("train", "--json")
    assert outcome.json["epsilon"] == "inf" and outcome.json["accuracy"] == 0.91
    assert "gate" in outcome.out and "prototypes 1/2" in outcome.err and "prototypes" not in outcome.out
    assert calls[0]["out"].parent == Path("runs") and not calls[0]["out"].exists()


def test_infinite_epsilon_and_insecure_noise_are_said_aloud(mosaic, calls):
    assert "WARNING" not in mosaic("train").err
    assert "nothing is protected" in mosaic("train", "--epsilon", "inf").err
    assert "protects nobody" in mosaic("train", "--set", "privacy.insecure_reproducible_noise=true").err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epsilon", "0"], "privacy.epsilon"),
        (["--epsilon", "many"], "privacy.epsilon"),
        (["--delta", "2"], "privacy.delta"),
        (["--config", "digit"], "digits"),
        (["--config", "nowhere/x.toml"], "no such file"),
        (["--set", "privacy.epsilom=3"], "did you mean privacy.epsilon"),
        (["--set", "epsilon"], "KEY=VALUE"),
        (["--set", "privacy.epsilon=3", "--epsilon", "4"], "given twice"),
        (["--set", "privacy.shares.counts=0.5"], "shares"),
        (["--set", "data.dataset=digitz"], "digitz"),
        (["--clients", "0"], "clients.count"),
        (["--resume"], "--out"),
    ],
)
def test_mistakes_are_one_line_and_train_nothing(mosaic, calls, arguments: list[str], named: str):
    assert named in mosaic("train", *arguments).refusal
    assert not calls


def test_errors_of_the_run_itself(mosaic, monkeypatch):
    module = types.ModuleType("mosaic_secure.engine.local")

    def train(*_: Any, **__: Any) -> None:
        raise UserError("engine.device = cuda: there is no such device here; use cpu")

    module.train = train
    monkeypatch.setitem(sys.modules, "mosaic_secure.engine.local", module)
    assert "use cpu" in mosaic("train").refusal


def start_run(path: Path, *, epsilon: float = 3.0) -> RunConfig:
    config = load_config("digits", {"privacy.epsilon": epsilon})
    RunDirectory.create(path, config=config.to_dict(), config_hash=config_hash(config)).close()
    return config


def test_resume_takes_the_configuration_from_the_run(mosaic, calls, tmp_path: Path):
    config = start_run(tmp_path / "run")
    assert mosaic("train", "--resume", "--out", tmp_path / "run").status == 0
    assert calls[0]["config"] == config and calls[0]["resume"] is True
    moved = ["--data-root", "/elsewhere", "--engine", "simulation"]
    assert mosaic("train", "--resume", "--out", tmp_path / "run", *moved).status == 0
    assert calls[1]["config"].data.root == "/elsewhere" and config_hash(calls[1]["config"]) == config_hash(
        config
    )


def test_resume_with_options_uses_those(mosaic, calls, tmp_path: Path):
    start_run(tmp_path / "run")
    assert mosaic("train", "--resume", "--out", tmp_path / "run", "--epsilon", "2").status == 0
    assert calls[0]["config"].privacy.epsilon == 2  # the run directory refuses it, if it is another


def test_resume_of_no_run(mosaic, calls, tmp_path: Path):
    assert "no manifest.json" in mosaic("train", "--resume", "--out", tmp_path).refusal


def test_dry_run_prints_plan_and_cost_and_stops(mosaic, calls, tmp_path: Path):
    outcome = mosaic("train", "--dry-run", "--json", "--out", tmp_path / "run", "--epsilon", "inf")
    assert outcome.status == 0 and not calls and not (tmp_path / "run").exists()
    assert {row["release"] for row in outcome.json["releases"]} >= {"counts", "classifier", "generator"}
    assert outcome.json["cost"]["upload_bytes_per_client"] > 0 and outcome.json["epsilon"] == "inf"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", [True, False])
def test_a_signal_ends_cleanly_with_the_line_that_resumes(tmp_path: Path, kind: signal.Signals, begun: bool):
    script = textwrap.dedent(
        """
        import sys, time, types
        from pathlib import Path
        from cli.main import main
        from mosaic_secure.runs.directory import RunDirectory

        def train(config, *, out, **_):
            if sys.argv[1] == "True":
                RunDirectory.create(out)
            print("ready", flush=True)
            time.sleep(60)

        module = types.ModuleType("mosaic_secure.engine.local")
        module.train = train
        sys.modules["mosaic_secure.engine.local"] = module
        sys.exit(main(["train", "--out", sys.argv[2], "--ledger-dir", "my ledgers", "--ablate"]))
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(begun), str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(kind)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert err.count("\n") == 1 and err.startswith("interrupted")
    resume = f"mosaic-secure train --resume --out {tmp_path}/run --ledger-dir 'my ledgers' --ablate"
    assert (resume in err) is begun
