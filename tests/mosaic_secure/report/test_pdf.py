"""The page as a PDF, by whichever printer is there, or one line that says that there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mosaic_secure.errors import UserError
from mosaic_secure.report import pdf
from mosaic_secure.report.pdf import find_browser, write_pdf

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title><style>
:root { --c: #ffffff; } @media print { :root { --c: #d55e00; } }</style></head>
<body><h1>Ünder the line</h1><svg viewBox="0 0 9 9"><rect width="9" height="9" fill="var(--c)"/></svg>
</body></html>"""


def checked(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"%PDF-") and len(data) > 2000 and b"%%EOF" in data[-32:]
    if shutil.which("pdftotext"):
        said = subprocess.run(
            ["pdftotext", str(path), "-"], capture_output=True, text=True, check=True
        ).stdout
        assert "Ünder the line" in said and "page.html" not in said
    if shutil.which("pdftoppm"):
        shot = subprocess.run(["pdftoppm", "-r", "20", str(path)], capture_output=True, check=True).stdout
        pixels = shot[15:]  # after the header
        assert bytes((0xD5, 0x5E, 0x00)) in pixels, "the drawing has its colour for print"


def without_browsers(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", str(place))


@pytest.mark.skipif(find_browser() is None, reason="needs Chromium, Chrome or Edge")
def test_a_browser_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pdf, "_has_weasyprint", lambda: False)
    write_pdf(PAGE, tmp_path / "audit.pdf")
    checked(tmp_path / "audit.pdf")
    assert [file.name for file in tmp_path.iterdir()] == ["audit.pdf"]


@pytest.mark.skipif(not pdf._has_weasyprint(), reason="needs the extra 'pdf', and Pango")
def test_weasyprint_prints_it_where_there_is_no_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pdf, "find_browser", lambda: None)
    write_pdf(PAGE, tmp_path / "audit.pdf")
    checked(tmp_path / "audit.pdf")


def test_without_a_printer_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    without_browsers(monkeypatch, tmp_path / "bin")
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(UserError, match=r"^no PDF can be printed: .*mosaic-secure\[pdf\]'$"):
        write_pdf(PAGE, tmp_path / "audit.pdf")
    assert not (tmp_path / "audit.pdf").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 7", "exit status 7"),
        ("exit 0", "left no file"),
        ('for a in "$@"; do case $a in --print-to-pdf=*) echo no > "${a#*=}";; esac; done', "is no PDF"),
    ],
)
def test_a_browser_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
):
    without_browsers(monkeypatch, tmp_path / "bin")
    browser = tmp_path / "bin" / "chromium"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(UserError, match=f"chromium: .*{said}"):
        write_pdf(PAGE, tmp_path / "audit.pdf")
    assert not (tmp_path / "audit.pdf").exists()
