"""Memory of the server's process with 10, 50 and 200 simulated clients, by stage.

    python benchmarks/many_clients.py               # writes benchmarks/results/many_clients.json
    python benchmarks/many_clients.py --clients 10,50 --out /tmp/some.json

Each run is a process of its own (the server's; clients and key authority are worker processes of it and not
counted) on digits, with three encrypted rounds and a few steps of everything. While it runs, its resident
pages are read from /proc every 20 ms: all of them, and those that are its alone (anonymous). The kernel's own
peak is beside them. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import MEBIBYTE, RESULTS, hardware, versions  # noqa: E402  (a script beside this one)

EVERY = 0.02
SETTINGS = {
    "partition.kind": "iid",
    "partition.min_records": 2,
    "privacy.epsilon": 8.0,
    "prototypes.rounds": 1,
    "classifier.steps": 4,
    "generator.steps": 4,
    "generator.warmup": 4,
    "gate.steps": 50,
    "distill.steps": 100,
    "engine.workers": 2,
    "engine.device": "cpu",
}


def serve(clients: int, place: Path) -> None:
    """One run in this process; says on standard output which stage has begun."""
    from mosaic_secure.config import load_config
    from mosaic_secure.engine.local import train
    from mosaic_secure.progress import Progress

    def tell(progress: Progress) -> None:
        print(json.dumps(progress.note if progress.stage == "global model" else progress.stage), flush=True)

    config = load_config("digits", {**SETTINGS, "clients.count": clients})
    result = train(config, out=place / "run", ledger_dir=place / "ledgers", progress=tell)
    print(json.dumps({"accuracy": result.accuracy}), flush=True)


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: resident, anonymous, and the kernel's peak of the first; empty if it is gone."""
    names = {"VmRSS": "resident", "RssAnon": "anonymous", "VmHWM": "peak"}
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in names:
                found[names[name]] = int(value.split()[0]) * 1024
    return found


def measured(clients: int) -> dict[str, Any]:
    """One run, from outside."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mosaic-many-") as scratch:
        command = [sys.executable, __file__, "--serve", str(clients), "--place", scratch]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        os.set_blocking(process.stdout.fileno(), False)
        stage, peak = "start", {"resident": 0, "anonymous": 0, "peak": 0}
        by_stage: dict[str, float] = {}
        out: dict[str, Any] = {}
        rest = b""
        while True:
            over = process.poll() is not None
            rest += process.stdout.read() or b""
            *lines, rest = rest.split(b"\n")
            for line in lines:
                said = json.loads(line)
                if isinstance(said, dict):
                    out = said
                elif said:
                    stage = said
            now = memory(process.pid)
            peak = {name: max(value, now.get(name, 0)) for name, value in peak.items()}
            grown = round(now.get("anonymous", 0) / MEBIBYTE, 1)
            by_stage[stage] = max(by_stage.get(stage, 0.0), grown)
            if over:
                break
            time.sleep(EVERY)
    return {
        "clients": clients,
        "status": process.returncode,
        "peak_rss_mib": round(peak["peak"] / MEBIBYTE, 1),
        "peak_anonymous_mib": round(peak["anonymous"] / MEBIBYTE, 1),
        "anonymous_mib_by_stage": by_stage,
        "wall_seconds": round(time.perf_counter() - began, 1),
        **out,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; 0 if every run ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="10,50,200", help="comma-separated (default: 10,50,200)")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_clients.json")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        serve(options.serve, options.place)
        return 0
    runs = []
    for clients in (int(part) for part in options.clients.split(",")):
        runs.append(measured(clients))
        shown = ("clients", "status", "peak_rss_mib", "peak_anonymous_mib", "wall_seconds")
        print("  ".join(f"{name} {runs[-1][name]}" for name in shown), flush=True)
    record = {
        "schema_version": 1,
        "name": "many_clients",
        "settings": SETTINGS,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "versions": versions(),
        "ratio_rss": round(runs[-1]["peak_rss_mib"] / runs[0]["peak_rss_mib"], 3),
        "ratio_anonymous": round(runs[-1]["peak_anonymous_mib"] / runs[0]["peak_anonymous_mib"], 3),
        "runs": runs,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if all(run["status"] == 0 for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
