from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import typer

import mosaic_secure
from cli.errors import guarded
from cli.main import app
from mosaic_secure.errors import UserError
from privacy.errors import BudgetError, UnsafeModelError

ROOT = Path(__file__).parents[2]


def commands() -> list[list[str]]:
    root = typer.main.get_command(app)
    found: list[list[str]] = [[]]
    for name, command in root.commands.items():
        found.append([name])
        if isinstance(command, click.Group):
            found += [[name, inner] for inner in command.commands]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_helps_with_an_example(mosaic, command: list[str]):
    outcome = mosaic(*command, "--help")
    assert outcome.status == 0
    assert "Example: mosaic-secure" in " ".join(outcome.out.split())


def test_all_commands_are_there():
    names = {" ".join(command) for command in commands()}
    wanted = {"train", "predict", "export", "synth", "verify", "budget", "configs", "report"}
    assert wanted | {"ledger show", "ledger verify"} <= names


def test_help_is_light_and_quick():
    code = (
        "import sys, cli.main; cli.main.main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'flwr', 'tenseal', 'opacus', 'pydantic')))"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - start < 3  # about 0.2 s on an idle machine


def test_version(mosaic):
    assert mosaic("--version").out == f"mosaic-secure {mosaic_secure.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train", "--epsilom", "4"], ["predict"], ["synth", "x", "--count", "many", "--to", "y"]],
)
def test_wrong_usage_is_one_line_that_points_to_help(mosaic, arguments: list[str]):
    assert "--help)" in mosaic(*arguments).refusal


def test_no_arguments_show_the_help(mosaic):
    outcome = mosaic()
    assert outcome.status == 2 and "Usage:" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            UserError("privacy.epsilon = -1:\n must be above 0"),
            2,
            "error: privacy.epsilon = -1: must be above 0",
        ),
        (BudgetError("budget already spent"), 2, "error: budget already spent"),
        (UnsafeModelError(["a", "b"]), 2, "error: the model mixes records of a batch: a; b"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: x: No such file or directory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd\nthing"), 1, "error: unexpected RuntimeError: odd thing (set MOSAIC_DEBUG=1"),
    ],
)
def test_every_error_is_one_line(capsys, error: BaseException, status: int, line: str):
    def command() -> None:
        raise error

    assert guarded(command) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_the_traceback_is_there_for_who_asks(capsys, monkeypatch):
    monkeypatch.setenv("MOSAIC_DEBUG", "1")
    assert guarded(lambda: 1 / 0) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    script = f"{sys.executable} -m cli train --help | head -c 5; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
