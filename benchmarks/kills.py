"""Kill a whole `mosaic-secure train` with SIGKILL at random moments, resume it, and see that nothing changed.

Real processes: the command, its workers, its ledgers. With noise from the seed an undisturbed run is the
reference for the final weights; the bytes of every release that existed at a kill are compared with those at
the end. At every kill each stored release must be charged, and at the end each planned one exactly once.

    python benchmarks/kills.py kills --kills 30 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, hardware, versions

OPTIONS = {
    "data.limit": 400,
    "clients.count": 3,
    "clients.architectures": "mlp",
    "prototypes.dim": 64,
    "classifier.steps": 40,
    "generator.steps": 40,
    "gate.steps": 40,
    "distill.steps": 100,
    "distill.synthetic_pool": 1000,
    "privacy.insecure_reproducible_noise": "true",
}
RELEASES = ("counts", "centre", "moments", "classifier", "generator")


def command(out: Path, ledgers: Path, resume: bool) -> list[str]:
    """The command line of one attempt."""
    line = [sys.executable, "-m", "cli", "train", "--epsilon", "4", "--device", "cpu", "--out", str(out)]
    line += ["--ledger-dir", str(ledgers), "--json"]
    return [*line, *_settings(), *(["--resume"] if resume else [])]


def _settings() -> list[str]:
    return [text for name, value in OPTIONS.items() for text in ("--set", f"{name}={value}")]


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of the files under a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.is_file() and not path.name.endswith(".part")
    }


def charges(ledger: Path) -> Counter[tuple[str, str]]:
    """How often (run, release-round) is charged in a ledger; a torn last line does not count."""
    lines = ledger.read_bytes().split(b"\n")[:-1] if ledger.exists() else []
    entries = [json.loads(line) for line in lines]
    made = [entry["body"] for entry in entries if entry["kind"] == "release"]
    return Counter((body["run_id"], f"{body['release']}-{body['round']}") for body in made)


def check_charged(ledgers: Path, names: Iterable[str]) -> None:
    """End the program unless each of these files of releases has its entry in its client's ledger."""
    for name in names:
        home, _, release = name.partition("/releases/")
        run, _, file = release.partition("/")
        if charges(ledgers / home / "ledger.jsonl")[run, Path(file).stem] != 1:
            raise SystemExit(f"release not charged once: {name}")


def check_each_once(ledgers: Path) -> None:
    """End the program unless each client's ledger shows each planned release exactly once, and no other."""
    found = sorted(ledgers.glob("*/*/ledger.jsonl"))
    if len(found) != OPTIONS["clients.count"]:
        raise SystemExit(f"{len(found)} ledgers of {OPTIONS['clients.count']} clients")
    for ledger in found:
        made = charges(ledger)
        once = sorted(release for _, release in made.elements()) == sorted(f"{name}-0" for name in RELEASES)
        if not once or len({run for run, _ in made}) != 1:
            raise SystemExit(f"{ledger.parent.name}: its ledger shows {dict(made)}")


def undisturbed(folder: Path) -> tuple[str, float]:
    """Hash of the final weights of a run that nobody interrupts, and its seconds."""
    began = time.monotonic()
    subprocess.run(command(folder / "run", folder / "ledgers", False), check=True, capture_output=True)
    weights = (folder / "run" / "global_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), time.monotonic() - began


def killed_run(folder: Path, seconds: float, kills: int, draw: random.Random) -> dict[str, object]:
    """One run, killed up to `kills` times at random moments and resumed until it ends."""
    out, ledgers = folder / "run", folder / "ledgers"
    seen: dict[str, str] = {}
    done = 0
    while True:
        resume = (out / "manifest.json").exists()
        process = subprocess.Popen(
            command(out, ledgers, resume),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if done < kills:
            try:
                process.wait(draw.uniform(0.15, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
                done += 1
                time.sleep(0.3)  # workers notice within this time
                stored = hashes(ledgers, "*/*/releases/**/*")
                check_charged(ledgers, stored)
                changed = [n for n, digest in stored.items() if seen.setdefault(n, digest) != digest]
                if changed:
                    raise SystemExit(f"release changed: {changed[0]}") from None
                continue
        output, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors.decode()[-2000:])
        break
    final = hashes(ledgers, "*/*/releases/**/*")
    lost = [name for name, digest in seen.items() if final.get(name) != digest]
    if lost:
        raise SystemExit(f"release not as before: {lost[0]}")
    check_charged(ledgers, final)
    check_each_once(ledgers)
    check = subprocess.run(
        [sys.executable, "-m", "cli", "ledger", "verify", str(ledgers), "--json"], capture_output=True
    )
    told = json.loads(check.stdout.decode().strip().rsplit("\n", 1)[-1])
    releases = [row["releases"] for ledger in told["ledgers"] for row in ledger["runs"]]
    weights = hashlib.sha256((out / "global_model.safetensors").read_bytes()).hexdigest()
    return {"kills": done, "weights": weights, "ledgers": told["verdict"], "releases": sorted(set(releases))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", help="name of the result file")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--each", type=int, default=5, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        reference, seconds = undisturbed(Path(folder))
    runs = []
    while sum(run["kills"] for run in runs) < chosen.kills:
        with tempfile.TemporaryDirectory() as folder:
            left = chosen.kills - sum(run["kills"] for run in runs)
            runs.append(killed_run(Path(folder), seconds, min(chosen.each, left), draw))
            print(runs[-1], flush=True)
    record = {
        "schema_version": 1,
        "name": chosen.name,
        "command": f"python benchmarks/kills.py {chosen.name} --kills {chosen.kills} --seed {chosen.seed}",
        "hardware": hardware(),
        "versions": versions(),
        "undisturbed_seconds": round(seconds, 2),
        "kills": sum(run["kills"] for run in runs),
        "same_final_weights": all(run["weights"] == reference for run in runs),
        "releases_unchanged": True,
        "releases_charged_once": True,
        "ledgers_verify": all(run["ledgers"] == "pass" for run in runs),
        "runs": runs,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({k: v for k, v in record.items() if k != "runs"}, indent=2))


if __name__ == "__main__":
    main()
