"""The page as a PDF: printed by a browser of this machine, or by WeasyPrint, whichever is there.

A browser draws the page as its authors saw it, and most machines have one. WeasyPrint comes with the extra
``pdf`` and wants the Pango library. Neither is let on the network, and the page needs none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from mosaic_secure.errors import UserError

__all__ = ["check_printer", "find_browser", "write_pdf"]

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "brave-browser",
)
TIMEOUT = 120  # seconds
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it needs privileges that containers lack; the page is ours, and holds no script
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-first-run",
    "--no-pdf-header-footer",
)


def find_browser() -> str | None:
    """Path of a Chromium or one of its kin, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def check_printer() -> None:
    """Refuse, before any work, if nothing on this machine prints.

    Raises:
        UserError: there is nothing to print with.
    """
    if not _printers():
        raise UserError(
            "no PDF can be printed: there is neither Chromium, Chrome or Edge nor WeasyPrint; install one, "
            "such as by pip install 'mosaic-secure[pdf]'"
        )


def write_pdf(html: str, path: Path) -> None:
    """Print a page that needs nothing else, and write it whole or not at all.

    Raises:
        UserError: there is nothing to print with, it fails, or the file cannot be written.
    """
    from privacy.storage import write_durably

    check_printer()
    printers = _printers()
    failures = []
    for name, printed in printers:
        try:
            data = printed(html)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            failures.append(f"{name}: {_first_line(error)}")
            continue
        try:
            write_durably(path, data)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        return
    raise UserError(f"no PDF could be printed ({'; '.join(failures)})")


def _printers() -> list[tuple[str, Callable[[str], bytes]]]:
    """Names, and what turns a page into a PDF; the better ones first."""
    browser = find_browser()
    found: list[tuple[str, Callable[[str], bytes]]] = []
    if browser is not None:
        found.append((browser, lambda page: _by_browser(browser, page)))
    if _has_weasyprint():
        found.append(("WeasyPrint", _by_weasyprint))
    return found


def _by_browser(browser: str, html: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mosaic-secure-pdf-") as place:
        page, printed = Path(place) / "page.html", Path(place) / "page.pdf"
        page.write_text(html, encoding="utf-8")
        subprocess.run(
            [
                browser,
                *_OPTIONS,
                f"--user-data-dir={Path(place) / 'profile'}",
                f"--print-to-pdf={printed}",
                page.as_uri(),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=True,
        )
        if not printed.is_file():
            raise RuntimeError("it ended well, and left no file")
        return _checked(printed.read_bytes())


def _by_weasyprint(html: str) -> bytes:
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    fetcher = URLFetcher(allowed_protocols=("data",))
    return _checked(HTML(string=_resolved(html), url_fetcher=fetcher).write_pdf())


def _has_weasyprint() -> bool:
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError):  # OSError: Pango is not there
        return False
    return True


def _resolved(html: str) -> str:
    """The page with the variables of its style filled in, which WeasyPrint does not know inside drawings.

    What is defined last counts, and that is for print.
    """
    values = dict(re.findall(r"(--[a-z0-9-]+):\s*([^;}]+)", html.partition("</style>")[0]))
    return re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: values.get(found[1], found[0]), html)


def _checked(data: bytes | None) -> bytes:
    if not data or not data.startswith(b"%PDF-"):
        raise RuntimeError("what it wrote is no PDF")
    return data


def _first_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not done after {TIMEOUT} s"
    return next(iter(str(error).splitlines()), type(error).__name__)
