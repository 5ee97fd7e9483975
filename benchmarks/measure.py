"""Run a `mosaic-secure train ...` command for several seeds and write down what it cost and what it reached.

Time counts from the start of the process to its end. Memory is that of the whole process tree, sampled:
the sum of proportional set sizes (shared pages count once, which is what the machine must have) and, beside
it, the sum of resident set sizes (shared pages count in every process). Linux only.

    python benchmarks/measure.py digits_eps4 --seeds 0,1,2 -- train --epsilon 4
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
RESULTS = HOUSE / "benchmarks" / "results"
SAMPLE_SECONDS = 0.2
_REST = 30.0  # times what a sample took: walking large processes must not slow what is measured
MEBIBYTE = 1 << 20
PACKAGES = (
    "torch",
    "torchvision",
    "opacus",
    "tenseal",
    "flwr",
    "numpy",
    "scipy",
    "dp-accounting",
    "cryptography",
)


@dataclass(frozen=True)
class Measurement:
    """One process, from start to end. Memory in bytes: peaks of the sums over the process tree."""

    status: int
    seconds: float
    peak_pss: int
    peak_rss: int
    peak_processes: int
    samples: int
    output: str = field(repr=False)

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last line of standard output; empty if there is none."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        with contextlib.suppress(ValueError, IndexError):
            value = json.loads(lines[-1])
            if isinstance(value, dict):
                return value
        return {}


class TreeMemory(threading.Thread):
    """Samples the memory of a process and of everything it started, orphans of its session included."""

    def __init__(self, root: int, every: float = SAMPLE_SECONDS) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._every = every
        self._over = threading.Event()
        self.peak_pss = self.peak_rss = self.peak_processes = self.samples = 0

    def run(self) -> None:
        while True:
            began = time.perf_counter()
            members = process_tree(self._root)
            sizes = [memory_of(pid) for pid in members]
            self.peak_pss = max(self.peak_pss, sum(pss for pss, _ in sizes))
            self.peak_rss = max(self.peak_rss, sum(rss for _, rss in sizes))
            self.peak_processes = max(self.peak_processes, len(members))
            self.samples += 1
            taken = time.perf_counter() - began
            if self._over.wait(max(self._every, _REST * taken)):
                return

    def stop(self) -> None:
        """End sampling after the sample in progress."""
        self._over.set()
        self.join()


def process_tree(root: int) -> list[int]:
    """Process ids of ``root``, its descendants, and every member of the session that it leads."""
    parents: dict[int, int] = {}
    members = {root}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name in parentheses may itself hold spaces and parentheses.
            values = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(values[1])
            if int(values[3]) == root:
                members.add(int(entry.name))
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in members} - members
        members |= children
        grown = bool(children)
    return sorted(members & parents.keys())


def memory_of(pid: int) -> tuple[int, int]:
    """(proportional, resident) set size of a process in bytes; zeros if it is gone."""
    sizes = {"Pss": 0, "Rss": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    return sizes["Pss"], sizes["Rss"]


def measure(command: Sequence[str], timeout: float | None = None) -> Measurement:
    """Run a command and measure it. Its standard error passes through; its standard output is returned.

    ``seconds`` counts from just before the process is created until it has ended. After ``timeout`` seconds
    the process and its group are killed and the status is negative.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    watch = TreeMemory(process.pid)
    watch.start()
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    except BaseException:
        process.terminate()
        raise
    finally:
        seconds = time.perf_counter() - began
        watch.stop()
    return Measurement(
        process.returncode,
        seconds,
        watch.peak_pss,
        watch.peak_rss,
        watch.peak_processes,
        watch.samples,
        output,
    )


def hardware() -> dict[str, Any]:
    """The machine in words and numbers; nothing that identifies it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str | None]:
    """Python, the packages that matter, and the commit (marked when the working tree differs from it)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    git = ["git", "-C", str(HOUSE), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    found["commit"] = commit.stdout.strip() or None
    return found


def summarise(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means and extremes over the runs that ended well."""
    good = [run for run in runs if run["status"] == 0]
    summary: dict[str, Any] = {"runs": len(good)}
    for name in ("accuracy", "epsilon", "wall_seconds", "peak_pss_mib", "peak_rss_mib"):
        values = [run[name] for run in good if isinstance(run.get(name), int | float)]
        if values:
            summary[name] = {
                "mean": statistics.fmean(values),
                "min": min(values),
                "max": max(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
            }
    return summary


def measure_seeds(
    arguments: Sequence[str], seeds: Sequence[int], scratch: Path, timeout: float | None
) -> list[dict[str, Any]]:
    """One row a seed: a fresh run directory, a fresh ledger directory, one process after the other."""
    program = shutil.which("mosaic-secure", path=str(Path(sys.executable).parent))
    start = [program] if program else [sys.executable, "-m", "cli"]
    rows = []
    for seed in seeds:
        places = ["--out", str(scratch / f"run-{seed}"), "--ledger-dir", str(scratch / f"ledgers-{seed}")]
        done = measure([*start, *arguments, "--seed", str(seed), *places, "--json"], timeout)
        result = {name: value for name, value in done.result.items() if name != "run"}
        row = {
            "seed": seed,
            "status": done.status,
            "wall_seconds": round(done.seconds, 2),
            "peak_pss_mib": round(done.peak_pss / MEBIBYTE, 1),
            "peak_rss_mib": round(done.peak_rss / MEBIBYTE, 1),
            "peak_processes": done.peak_processes,
            "memory_samples": done.samples,
            "accuracy": result.get("accuracy"),
            "epsilon": result.get("epsilon"),
            "result": result,
        }
        rows.append(row)
        shown = ("seed", "status", "wall_seconds", "peak_pss_mib", "accuracy", "epsilon")
        print("  ".join(f"{name} {row[name]}" for name in shown), flush=True)
    return rows


def write_result(path: Path, record: dict[str, Any]) -> None:
    """Replace a result file at once, so that whoever is interrupted leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write ``benchmarks/results/NAME.json``, and return 0 if every run ended well."""
    parser = argparse.ArgumentParser(description="Measure a mosaic-secure command over seeds.")
    parser.add_argument("name", help="name of the result file")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    parser.add_argument("--note", default=None, help="a sentence to keep with the result")
    parser.add_argument("--timeout", type=float, default=None, help="seconds after which a run is killed")
    parser.add_argument("--keep", type=Path, default=None, help="keep run directories in this new folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("command", nargs="+", help="after --: the command, such as train --epsilon 4")
    options = parser.parse_args(argv)
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds {options.seeds!r}: must be whole numbers with commas between, such as 0,1,2")
    if Path(options.name).name != options.name:
        parser.error(f"name {options.name!r}: must be a plain file name without a folder")

    record: dict[str, Any] = {
        "schema_version": 1,
        "name": options.name,
        "command": shlex.join(["mosaic-secure", *options.command]),
        "note": options.note,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory(prefix="mosaic-measure-") as temporary:
        scratch = options.keep or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=options.keep is None)
        runs = measure_seeds(options.command, seeds, scratch, options.timeout)
    record["summary"] = summarise(runs)
    record["runs"] = runs
    target = options.results / f"{options.name}.json"
    write_result(target, record)
    print(f"wrote {target}")
    return 0 if all(run["status"] == 0 for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
