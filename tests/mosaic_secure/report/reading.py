"""Reading a page as a person or a browser does."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)


class Reader(html.parser.HTMLParser):
    """Text, headings, and whatever a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.fetched += [
            f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "onload")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def words(reader: Reader) -> str:
    return re.sub(r"\s+", " ", " ".join(reader.text))


def shown_without_overflow(text: str, place: Path, width: int) -> None:
    """Show a page in a real browser; nothing is wider than the window, nothing is fetched, nothing complains.

    A line is added that asks the browser itself, and writes the answer where it can be read.
    """
    ask = """<pre id="answer"></pre><script>
        const page = document.documentElement, fetched = performance.getEntriesByType("resource").length;
        document.getElementById("answer").textContent =
            `wide ${page.scrollWidth} of ${page.clientWidth} fetched ${fetched}`;
        </script></body>"""
    file = place / "page.html"
    file.write_text(text.replace("</body>", ask), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        "--enable-logging=stderr",
    ]
    shown = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={place / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    wide, room, fetched = map(int, re.search(r"wide (\d+) of (\d+) fetched (\d+)", shown.stdout).groups())
    assert wide <= room and fetched == 0
    assert "CONSOLE" not in shown.stderr
