"""What the documents name exists: files, links, commands, options; the set-up commands stand alone."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from attacks.statistics import tpr_ceiling

HOUSE = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    HOUSE / "README.md",
    HOUSE / "SECURITY.md",
    HOUSE / "CHANGELOG.md",
    *sorted((HOUSE / "docs").glob("*.md")),
]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
OWN_PATH = re.compile(r"`((?:privacy|attacks|mosaic_secure|cli|configs|tests|benchmarks|docs)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
COMMAND = re.compile(r"(?:^|[`(])mosaic-secure +([a-z]+)", re.MULTILINE)


@cache
def _help(*words: str) -> str:
    code = "import sys; from cli.main import main; sys.argv[0] = 'mosaic-secure'; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"],
        cwd=HOUSE,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [name for name in OWN_PATH.findall(text) if not (HOUSE / name).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert not missing, f"{document.name} names what is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_commands_exist(document: Path) -> None:
    for command in sorted(set(COMMAND.findall(document.read_text(encoding="utf-8")))):
        assert re.search(rf"\b{command}\b", _help()), f"{document.name} names `mosaic-secure {command}`"


def test_options_in_the_readme_exist() -> None:
    text = README.replace("\\\n", " ")  # a command may go on in the next line
    lines = re.findall(r"^(?:.*/)?mosaic-secure (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        for option in (word for word in words if word.startswith("--")):
            assert option in _help(words[0]), f"mosaic-secure {line}"


@pytest.mark.parametrize("ending", ["mosaic-secure train --epsilon 4", "python -m pytest"])
def test_each_set_up_command_is_one_line_from_a_bare_clone(ending: str) -> None:
    lines = [
        line for line in README.splitlines() if line.startswith("python3 -m venv ") and line.endswith(ending)
    ]
    assert len(lines) == 1
    make, install, run = lines[0].split(" && ")
    assert make == "python3 -m venv .venv"
    assert install.startswith(".venv/bin/pip install -c constraints.txt -e ")
    assert run == f".venv/bin/{ending}"


def test_the_ceilings_in_the_readme_are_those_that_the_code_computes() -> None:
    head, row = re.search(
        r"^\| ε \(δ = 10⁻⁵\) \|(.*)\|\n.*\n\| true-positive rate.*?\|(.*)\|$", README, re.M
    ).groups()
    epsilons = [float(cell) for cell in head.split("|")]
    ceilings = [float(cell.replace("%", "")) / 100 for cell in row.split("|")]
    assert ceilings == pytest.approx([tpr_ceiling(e, 1e-5, 1e-3) for e in epsilons], rel=0.02)
