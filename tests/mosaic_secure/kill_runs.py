"""Runs one tiny federation again and again in processes that can be killed at any moment.

A script for `test_kills.py`. Each line of standard input is one attempt: a JSON object with ``config``,
``place`` (holds run/ and ledgers/), and when to kill: ``seconds``, ``flush`` (at the n-th flush to disk),
``file`` (as soon as it is there), or nothing. It answers with one line: ``killed``, ``done``, or what went
wrong. An attempt is a process of its own, whose clients run inside it, so that SIGKILL takes them all at
once; one with ``here`` runs in this process, before any other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mosaic_secure.config import RunConfig
from mosaic_secure.engine import local
from mosaic_secure.plan import RunPlan, build_plan


def attempt(config: RunConfig, order: dict[str, Any]) -> None:
    """Begin the run, or continue it, in the calling process."""
    place = Path(order["place"])
    if order.get("flush"):
        die_at_flush(order["flush"])
    begun = (place / "run" / "manifest.json").exists()
    local.train(config, out=place / "run", ledger_dir=place / "ledgers", resume=begun)


def die_at_flush(number: int) -> None:
    """Have the operating system kill this process right before its n-th flush."""
    flush, seen = os.fsync, [0]

    def counted(descriptor: int) -> None:
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = counted


def supervise(config: RunConfig, order: dict[str, Any]) -> str:
    """Run one attempt in a child process, kill it when it is time, and say how it ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            attempt(config, order)
            os._exit(0)
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".replace("\n", " ").encode())
            os._exit(1)
    os.close(write)
    end = time.monotonic() + order.get("seconds", 120.0)
    awaited = Path(order["place"]) / order["file"] if "file" in order else None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() >= end or (awaited is not None and awaited.exists()):
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    words = os.read(read, 4096).decode()
    os.close(read)
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if os.WEXITSTATUS(status) == 0 else words


def main() -> None:
    """Answer attempts until standard input ends."""
    import torch

    torch.set_num_threads(1)
    known: dict[str, RunPlan] = {}

    def plan_once(config: RunConfig, _root: str | None = None) -> RunPlan:
        # Planning takes longer than all the rest of such a run, and nothing can be lost in it.
        values = config.to_dict()
        budget = json.dumps([values["privacy"], values["sampler"]])
        if budget not in known:
            known[budget] = build_plan(config)
        return RunPlan.derive(config, known[budget].budget)

    local.build_plan = plan_once
    for line in sys.stdin:
        order = json.loads(line)
        config = RunConfig.from_dict(order["config"])
        if order.get("here"):  # which loads and computes all that later attempts need
            attempt(config, order)
            print("done", flush=True)
        else:
            print(supervise(config, order), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
