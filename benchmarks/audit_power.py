"""How often an audit refutes a run without noise, and how often it lets an honest one stand.

    python benchmarks/audit_power.py            # 20 seeds each, about half an hour on two cores
    python benchmarks/audit_power.py --table    # print what is there

One run of `--config digits` is made at epsilon inf and one at epsilon 4; each is audited with
`audit --claim 4 --retrain --canaries 500` under 20 seeds. Every audit makes a fresh run with fresh noise.
Kept in `benchmarks/results/audit_power.json`; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import RESULTS, hardware, versions, write_result  # noqa: E402  (a script beside this one)

FILE = RESULTS / "audit_power.json"
SEEDS = range(20)
WANTED = {"inf": (3, 19), "4": (0, 18)}
"""Epsilon of the run -> exit status of its audits, and how many of 20 must have it."""
AUDIT = ("--claim", "4", "--retrain", "--canaries", "500")


def kept() -> dict[str, Any]:
    """The record as it stands."""
    if FILE.exists():
        return json.loads(FILE.read_text(encoding="utf-8"))
    return {"schema_version": 1, "command": "python benchmarks/audit_power.py", "audits": []}


def mosaic(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status of a command, and the object on its last line."""
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import main; raise SystemExit(main())", *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.rstrip("\n").splitlines()
    return done.returncode, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


def audited(run: Path, epsilon: str, seed: int) -> dict[str, Any]:
    """One audit, in numbers."""
    status, found = mosaic("audit", str(run), *AUDIT, "--seed", str(seed))
    return {
        "epsilon": epsilon,
        "seed": seed,
        "status": status,
        "verdict": found.get("verdict"),
        "lower_bound": found.get("epsilon_lower_bound"),
        "p_values": found.get("p_values"),
        "right": {test["name"]: test["guesses"] for test in found.get("canaries", [])},
        "shown": {test["name"]: test["lower_bound"] for test in found.get("canaries", [])},
    }


def write(record: dict[str, Any]) -> None:
    """Keep it, whole or not at all."""
    record |= {
        "date": datetime.now(UTC).date().isoformat(),
        "audit": " ".join(["mosaic-secure", "audit", "RUN", *AUDIT]),
        "hardware": hardware(),
        "versions": versions(),
    }
    record["audits"].sort(key=lambda row: (row["epsilon"], row["seed"]))
    write_result(FILE, record)


def table(record: dict[str, Any]) -> str:
    """One line for each epsilon, and whether it is what must be."""
    lines = []
    for epsilon, (status, least) in WANTED.items():
        rows = [row for row in record["audits"] if row["epsilon"] == epsilon]
        right = sum(row["status"] == status for row in rows)
        bounds = [float(row["lower_bound"]) for row in rows if row["lower_bound"] is not None]
        shown = f"{min(bounds):.2f} to {max(bounds):.2f}" if bounds else "-"
        lines.append(
            f"epsilon {epsilon:>3}: exit {status} in {right} of {len(rows)} (needed: {least} of "
            f"{len(SEEDS)}); lower bounds {shown}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Audit what is missing; 0 if both numbers are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--epsilon", choices=list(WANTED), action="append", help="of this run only")
    options = parser.parse_args(argv)
    if not options.table:
        for epsilon in options.epsilon or list(WANTED):
            done = {row["seed"] for row in kept()["audits"] if row["epsilon"] == epsilon}
            left = [seed for seed in SEEDS if seed not in done]
            if not left:
                continue
            with tempfile.TemporaryDirectory(prefix="mosaic-power-") as scratch:
                run, ledgers = Path(scratch) / "run", Path(scratch) / "ledgers"
                places = ("--out", str(run), "--ledger-dir", str(ledgers))
                if mosaic("train", "--config", "digits", "--epsilon", epsilon, *places)[0] != 0:
                    return 1
                for seed in left:
                    row = audited(run, epsilon, seed)
                    if row["verdict"] is None:
                        print(f"epsilon {epsilon} seed {seed}: no audit, exit {row['status']}", flush=True)
                        return 1
                    print(
                        json.dumps({name: row[name] for name in ("epsilon", "seed", "status", "lower_bound")})
                    )
                    record = kept()
                    record["audits"].append(row)
                    write(record)
    record = kept()
    print(table(record))
    counts = {
        epsilon: sum(r["epsilon"] == epsilon and r["status"] == status for r in record["audits"])
        for epsilon, (status, _) in WANTED.items()
    }
    return 0 if all(counts[epsilon] >= least for epsilon, (_, least) in WANTED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
