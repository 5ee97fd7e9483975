"""Ctrl-C in the middle of a real run, with its worker processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = {
    "data.limit": 240,
    "clients.count": 3,
    "clients.architectures": "mlp",
    "partition.kind": "iid",
    "prototypes.dim": 32,
    "prototypes.rounds": 3,
    "prototypes.gradient_share": 0.3,
    "classifier.steps": 4,
    "generator.steps": 4,
    "gate.steps": 4,
    "distill.steps": 6,
    "distill.synthetic_pool": 128,
    "engine.device": "cpu",
    "engine.workers": 2,
}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_ends_with_a_line_that_goes_on(tmp_path: Path):
    settings = [text for name, value in TINY.items() for text in ("--set", f"{name}={value}")]
    places = ["--out", str(tmp_path / "the run"), "--ledger-dir", str(tmp_path / "ledgers")]
    child = start(["train", "--epsilon", "inf", *settings, *places])
    while "prototypes 1/" not in child.stderr.readline():
        assert child.poll() is None, child.stderr.read()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert child.returncode == 130 and len(lines) == 1, err
    assert lines[0].startswith("interrupted; resume with: mosaic-secure train --resume")
    program, *arguments = shlex.split(lines[0].partition("resume with: ")[2])
    assert program == "mosaic-secure"
    child = start([*arguments, "--json"])
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["run"] == str(tmp_path / "the run")
    assert "prototypes 1/" in err  # of what was there already, without asking again
    assert len(list(tmp_path.rglob("releases/*/*.bin"))) == 3 * 8
