"""Five machines on one: the manual's commands, and faults of the network between. Needs namespaces."""

from __future__ import annotations

import faulthandler
import subprocess
import sys
from pathlib import Path

import pytest

from .machines import confined, why_not
from .manual import HOUSE

INSIDE = ("between_machines.py", "images_between_machines.py")
MINUTES = 40


@pytest.mark.slow
@pytest.mark.parametrize("inside", INSIDE)
def test_a_federation_between_machines(inside: str, tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    faulthandler.cancel_dump_traceback_later()  # this takes its time
    before = _network()
    words = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", "-x", "-q", "-rs", "-p", "no:cacheprovider"]
    words += ["-o", "faulthandler_timeout=0"]
    words += ["--basetemp", str(tmp_path / "inside"), str(Path(__file__).with_name(inside))]
    done = subprocess.run(
        confined(words), cwd=HOUSE, capture_output=True, text=True, timeout=MINUTES * 60, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _network() == before
    assert not _left(tmp_path)


def _network() -> str:
    """Links and namespaces of this machine, as it sees them itself."""
    shown = [["ip", "-o", "link"], ["ip", "netns", "list"]]
    return "".join(
        subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in shown
    )


def _left(place: Path) -> list[str]:
    """Command lines of processes that name the place of the test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in line:
            found.append(line)
    return found
