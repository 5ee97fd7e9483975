from __future__ import annotations

import sys

import pytest

from cli.progress import shown
from mosaic_secure.progress import Progress


def test_plain_lines_when_a_stage_begins_ends_or_has_something_to_say(capsys: pytest.CaptureFixture[str]):
    with shown() as report:
        for step in range(101):
            report(Progress("distill", step, 100))
        report(Progress("seal", note="[almost] done"))
    out, err = capsys.readouterr()
    lines = [line.split("] ", 1)[1] for line in err.splitlines()]
    assert out == "" and lines == ["distill 0/100", "distill 100/100", "seal: [almost] done"]


def test_a_note_is_told_once_however_often_it_comes(capsys: pytest.CaptureFixture[str]):
    with shown() as report:
        for client in ("client-0", "client-1"):
            for step in range(1, 51):
                report(Progress("shadow models", step, 50, client))
    lines = [line.split("] ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"shadow models {step}/50: {client}" for client in ("client-0", "client-1") for step in (1, 50)
    ]


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with shown() as report:
        report(Progress("enrol", 1, 1))
        report(Progress("distill", 3, 100, "[odd] note"))
    out, err = capsys.readouterr()
    assert out == "" and "enrol" in err and "3/100" in err and "[odd] note" in err
