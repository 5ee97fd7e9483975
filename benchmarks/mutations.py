"""Break a privacy step on purpose, and see the tests that are there for it fail: docs/mutations.md.

benchmarks/mutations.toml says what is broken, where, and which tests must notice. The tracked files are
copied to a temporary folder; nothing else is touched. There the tests must pass first. Then each step is
broken by itself, and every test named for it must fail, by an assertion or by a privacy error of the product.
A test that fails for another reason (a missing name, a fixture, a syntax error) proves nothing.

    python benchmarks/mutations.py              # some minutes; writes docs/mutations.md
    python benchmarks/mutations.py --check      # runs no test: does the table still fit the code?
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import HOUSE, hardware, versions

DATA = Path("benchmarks/mutations.toml")
TABLE = Path("docs/mutations.md")
AUDIT = "tests/mosaic_secure/audit/"
COUNTED = ("AssertionError", "assert ", "Failed: DID NOT RAISE", "privacy.errors.")
"""How the message of a failure begins that counts; "Failed" is of pytest.raises, where nothing was raised."""


class Unfit(Exception):
    """The data file, the code or the table do not fit each other; the text says where."""


@dataclass(frozen=True)
class Mutation:
    """One broken step: `old` stands once in `file` and becomes `new`; then each of `tests` must fail."""

    name: str
    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, house: Path) -> str:
        """The text of the file with the step broken; raises Unfit if its place cannot be found."""
        text = (house / self.file).read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise Unfit(f"{self.name}: its old text occurs {found} times in {self.file}; it must occur once")
        return text.replace(self.old, self.new)


def read(house: Path) -> tuple[Mutation, ...]:
    """All mutations of the data file, each with its place in the code and its tests looked up."""
    rows = tomllib.loads((house / DATA).read_text(encoding="utf-8"))["mutation"]
    found = tuple(Mutation(**{**row, "tests": tuple(row["tests"])}) for row in rows)
    if len({mutation.name for mutation in found}) != len(found):
        raise Unfit(f"{DATA}: two mutations have one name")
    for mutation in found:
        mutation.broken(house)
        if not mutation.tests:
            raise Unfit(f"{mutation.name}: names no test")
        for test in mutation.tests:
            file, _, function = test.partition("::")
            path = house / file
            if not path.is_file() or f"def {function}(" not in path.read_text(encoding="utf-8"):
                raise Unfit(f"{mutation.name}: there is no test {test}")
    return found


def cells(mutation: Mutation) -> tuple[str, str, str]:
    """What the table says of a mutation, beside the seconds."""
    caught = []
    for test in mutation.tests:
        file, _, function = test.partition("::")
        caught.append(f"{'audit: ' * file.startswith(AUDIT)}[`{function}`](../{file})")
    return f"**{mutation.name}.** {mutation.why}", f"`{mutation.file}`", "<br>".join(caught)


def check(house: Path, mutations: Sequence[Mutation]) -> None:
    """Raise Unfit unless the table lists exactly these mutations, with these places and these tests."""
    try:
        text = (house / TABLE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unfit(f"{TABLE}: is missing; python benchmarks/mutations.py writes it") from None
    listed = [
        tuple(cell.strip() for cell in row.split("|")[1:4]) for row in re.findall(r"^\| \*\*.*$", text, re.M)
    ]
    wanted = [cells(mutation) for mutation in mutations]
    for row in (*wanted, *listed):
        if (row in wanted) != (row in listed):
            raise Unfit(
                f"{TABLE}: does not fit {DATA} at {row[0]!r}; run python benchmarks/mutations.py again"
            )
    if listed != wanted:
        raise Unfit(f"{TABLE}: its rows are not those of {DATA}, in that order")


def copy_tracked(house: Path, target: Path) -> None:
    """Copy what git tracks, as it lies in the working tree."""
    done = subprocess.run(["git", "-C", house, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit(f"{house}: is no git checkout, so there is no list of files to copy")
    for name in filter(None, done.stdout.split("\0")):
        if (house / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(house / name, target / name)


@dataclass(frozen=True)
class Outcome:
    """What pytest said: exit status (None: out of time), cases and failures by test, and errors besides."""

    status: int | None
    cases: dict[str, int]
    failures: dict[str, list[str]]
    errors: list[str]
    seconds: float


def run_tests(house: Path, tests: Sequence[str], limit: float) -> Outcome:
    """Run these tests of the tree at `house` in a process of their own."""
    report = house / "mutations-report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    # Without byte code: a file that changes twice within a second would else be taken for the one before.
    own = {"PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=house,
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status: int | None = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - began
    cases: dict[str, int] = {}
    failures: dict[str, list[str]] = {}
    errors = [] if report.exists() else ["no report"]
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        file = case.get("classname", "").replace(".", "/") + ".py"
        test = f"{file}::{case.get('name', '').partition('[')[0]}"
        cases[test] = cases.get(test, 0) + 1
        for said in case:
            if said.tag == "failure":
                failures.setdefault(test, []).append(said.get("message", ""))
            elif said.tag in ("error", "skipped"):
                errors.append(f"{test}: {said.tag}: {said.get('message', '')}")
    return Outcome(status, cases, failures, errors, seconds)


def verdict(mutation: Mutation, outcome: Outcome) -> str | None:
    """Why the mutation does not count as caught; None if every test named for it caught it."""
    if outcome.status is None:
        return "ran out of time"
    if outcome.errors:
        return f"did not get as far as a test: {_short(outcome.errors[0])}"
    for test in mutation.tests:
        said = outcome.failures.get(test, [])
        if not said:
            return f"survived {test}"
        other = [message for message in said if not message.startswith(COUNTED)]
        if other:
            return f"{test} failed by something else: {_short(other[0])}"
    return None if outcome.status == 1 else f"pytest ended with status {outcome.status}"


def check_unbroken(house: Path, mutations: Iterable[Mutation], limit: float) -> None:
    """Raise Unfit unless all tests named anywhere pass as the code is."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    outcome = run_tests(house, tests, limit)
    unsound = [*outcome.failures, *outcome.errors, *(test for test in tests if test not in outcome.cases)]
    if outcome.status != 0 or unsound:
        reason = _short(unsound[0]) if unsound else f"pytest ended with status {outcome.status}"
        raise Unfit(f"unbroken, a test does not pass: {reason}")
    print(f"unbroken: {len(tests)} tests pass ({outcome.seconds:.0f} s)", flush=True)


def break_one(house: Path, mutation: Mutation, limit: float) -> tuple[str | None, float]:
    """Break a step in the tree at `house`, run its tests, and mend it; what is wrong, and the seconds."""
    path = house / mutation.file
    whole = path.read_bytes()
    path.write_text(mutation.broken(house), encoding="utf-8")
    try:
        compile(path.read_text(encoding="utf-8"), mutation.file, "exec")
        outcome = run_tests(house, mutation.tests, limit)
    except SyntaxError as error:
        return f"is no Python: {error}", 0.0
    finally:
        path.write_bytes(whole)
    return verdict(mutation, outcome), outcome.seconds


def page(mutations: Sequence[Mutation], seconds: Sequence[float]) -> str:
    """docs/mutations.md."""
    made, machine = versions(), hardware()
    names = ("python", "torch", "opacus", "tenseal", "flwr", "numpy")
    packages = ", ".join(f"{name} {made[name]}" for name in names)
    head = f"""# Broken steps, and what catches them

A guarantee that no test holds is lost by the next change. Each row is a step of the product, broken on
purpose in one place, and the tests that fail then, by an assertion or by a privacy error; every one of them
passes unbroken. The edits themselves are in [benchmarks/mutations.toml](../benchmarks/mutations.toml).
"audit" marks tests of the instruments of the product's own audit: canaries, and the server's view;
[audits.md](audits.md) says what the command makes of them, and what it has not noticed. Where a test
is statistical, its docstring states how often it would fail by chance.

The table is written by this command, and a test holds it against the code:

```bash
.venv/bin/python benchmarks/mutations.py
```

Run on {datetime.now(UTC):%Y-%m-%d} at commit {made["commit"]}: all {len(mutations)} were caught.
{packages};
{machine["cores"]} cores, {machine["cpu"]}. Seconds are of the tests of a row, with the start of
their process, and depend on what else the machine does.

| broken step | where | caught by | seconds |
| --- | --- | --- | --- |
"""
    rows = zip(mutations, seconds, strict=True)
    return head + "".join(f"| {' | '.join(cells(made))} | {took:.0f} |\n" for made, took in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Break every step, write the table, and return 0 if all were caught."""
    parser = argparse.ArgumentParser(description="Break privacy steps and see which tests notice.")
    parser.add_argument("--only", metavar="NAME", help="this mutation alone; the table is left as it is")
    parser.add_argument(
        "--check", action="store_true", help="run no test: hold code and table against the data file"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds for the tests of a row (default: 300)"
    )
    options = parser.parse_args(argv)
    try:
        mutations = read(HOUSE)
        if options.check:
            check(HOUSE, mutations)
            print(
                f"{TABLE}: lists the {len(mutations)} mutations of {DATA}, and each has its place in the code"
            )
            return 0
        chosen = [mutation for mutation in mutations if options.only in (None, mutation.name)]
        if not chosen:
            raise Unfit(
                f"--only {options.only!r}: one of {', '.join(mutation.name for mutation in mutations)}"
            )
        with tempfile.TemporaryDirectory(prefix="mosaic-mutations-") as scratch:
            copy = Path(scratch)
            copy_tracked(HOUSE, copy)
            check_unbroken(copy, chosen, options.timeout * 2)
            wrong, seconds = [], []
            for mutation in chosen:
                problem, took = break_one(copy, mutation, options.timeout)
                print(f"{mutation.name}: {problem or 'caught'} ({took:.0f} s)", flush=True)
                wrong += [mutation.name] if problem else []
                seconds.append(took)
    except Unfit as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if wrong:
        print(f"not caught: {', '.join(wrong)}", file=sys.stderr)
        return 1
    if options.only is None:
        (HOUSE / TABLE).write_text(page(mutations, seconds), encoding="utf-8")
        print(f"wrote {TABLE}")
    return 0


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


if __name__ == "__main__":
    sys.exit(main())
