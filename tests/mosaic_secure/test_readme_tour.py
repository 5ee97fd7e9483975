"""The commands of the README's tour, as printed, do what the README says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .tiny import command

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TOUR = README.split("## A tour")[1].split("\n## ")[0].replace("\\\n", " ")
LINES = [shlex.split(line, comments=True) for line in re.findall(r"^mosaic-secure (.*)$", TOUR, re.MULTILINE)]


def _lines(name: str) -> list[list[str]]:
    found = [words for words in LINES if words[0] == name]
    assert found, f"the tour no longer shows {name}"
    return found


def _images(place: Path) -> None:
    """DATA/CLIENT/CLASS/image.png below a place: three clients, two classes."""
    blank = np.zeros((8, 8, 3), np.uint8)
    for client in ("north", "south", "west"):
        for name in ("cat", "dog"):
            folder = place / "DATA" / client / name
            folder.mkdir(parents=True)
            Image.fromarray(blank).save(folder / "image.png")


@pytest.mark.parametrize(
    ("name", "written"),
    [("synth", ["tour-synthetic/grid.png", "tour-synthetic/synthetic.npz"]), ("export", ["tour.pt2"])],
)
def test_what_the_tour_makes_of_a_run(finished, name: str, written: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in _lines(name):
        given = [str(finished.path) if word == "runs/tour" else word for word in words]
        outcome = command(*given)
        assert outcome.status == 0, outcome.err
    for file in written:
        own = file.replace("tour", finished.path.name)
        assert (tmp_path / own).is_file() and own in outcome.out
        assert file.split("/")[0] in TOUR, "the tour says where it went"


def test_the_tour_verifies_a_run_and_its_evidence(finished, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for words in _lines("report") + _lines("verify"):
        outcome = command(*[str(finished.path) if word == "runs/tour" else word for word in words])
        assert outcome.status == 0, outcome.err


@pytest.mark.slow
def test_the_tour_audits_a_run(finished, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(finished.path, copy)
    for words in _lines("audit"):
        given = [str(copy) if word == "runs/tour" else word for word in words]
        outcome = command(*given)
        assert outcome.status in (0, 3), outcome.err  # an honest run is refuted once in a hundred times
        assert "report: " in outcome.out and "not tested:" in outcome.out


def test_the_tour_reads_the_ledgers_of_a_run(finished):
    for words in _lines("ledger"):
        outcome = command(*[str(finished.ledgers) if word == "ledgers" else word for word in words])
        assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("words", [w for w in LINES if w[0] in ("budget", "train")], ids=shlex.join)
def test_the_tour_plans_what_it_trains(words: list[str], tmp_path: Path, monkeypatch):
    _images(tmp_path)
    monkeypatch.chdir(tmp_path)
    outcome = command(*words, *(["--dry-run"] if words[0] == "train" else []))
    assert outcome.status == 0, outcome.err
    assert "target epsilon           4" in outcome.out
