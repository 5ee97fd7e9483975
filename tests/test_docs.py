"""What the documents name exists: files, links, commands, options; the set-up commands stand alone."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from attacks.statistics import tpr_ceiling

from .shown_help import shown_help

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
THREATS = (HOUSE / "docs" / "threat-model.md").read_text(encoding="utf-8")
THREAT = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w./]+\.py)::(\w+)`")
OUTCOME = re.compile(r"(?:^|; )(prevented|detected|out of scope)\b")
HOSTILE = (  # what a federation has to reckon with, in the words of whoever looks it up
    "another node's identity",
    "unregistered node",
    "(replay)",
    "oversized message, to the server",
    "oversized message, to the SuperLink",
    "NaN",
    "huge norm",
    "wrong shapes",
    "label-flipped or backdoored experts",
    "one client's ciphertext",
    "a second decryption",
    "another contributor set for the same round",
    "one contribution many times",
    "a roster of its own clients",
)
COMMAND = re.compile(r"(?:^|[`(])mosaic-secure +([a-z]+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [name for name in OWN_PATH.findall(text) if not (HOUSE / name).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert not missing, f"{document.name} names what is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_commands_exist(document: Path) -> None:
    for command in sorted(set(COMMAND.findall(document.read_text(encoding="utf-8")))):
        assert re.search(rf"\b{command}\b", shown_help()), f"{document.name} names `mosaic-secure {command}`"


def test_options_in_the_readme_exist() -> None:
    text = README.replace("\\\n", " ")  # a command may go on in the next line
    lines = re.findall(r"^(?:.*/)?mosaic-secure (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        for option in (word for word in words if word.startswith("--")):
            assert option in shown_help(words[0]), f"mosaic-secure {line}"


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


@cache
def _tests(path: str) -> frozenset[str]:
    """Names of the tests in the one file under tests/ whose path ends so; nothing is imported."""
    found = [file for file in (HOUSE / "tests").rglob("*.py") if f"/{file}".endswith(f"/{path}")]
    assert len(found) == 1, f"{path} is {len(found)} files"
    parsed = ast.parse(found[0].read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(parsed) if isinstance(node, ast.FunctionDef))


def _threats() -> list[tuple[str, ...]]:
    """Attempt, outcome, how, tests: the rows of the threat model's tables of attempts."""
    part = THREATS.partition("## What the parties may try")[2].partition("\n## ")[0]
    rows = [row for row in THREAT.findall(part) if row[0] not in ("attempt", "---")]
    assert len(rows) == sum(line.startswith("| ") for line in part.splitlines()) - 2 * part.count("### ")
    return rows


def test_what_the_threat_model_claims_is_held_by_tests_that_exist() -> None:
    for attempt, outcome, _, held in _threats():
        said = OUTCOME.findall(outcome)
        assert said and OUTCOME.match(outcome), f"{attempt}: {outcome}"
        named = TEST.findall(held)
        assert len(named) == held.count("::") and (named or said == ["out of scope"]), attempt
        for path, name in named:
            assert name.startswith("test_") and name in _tests(path), f"{attempt}: {path}::{name}"


@pytest.mark.parametrize("words", HOSTILE)
def test_the_threat_model_has_a_row_for_each_hostile_deed(words: str) -> None:
    assert any(words in attempt for attempt, *_ in _threats())
