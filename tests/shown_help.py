"""What `mosaic-secure ... --help` prints, once for each command."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

_HOUSE = Path(__file__).resolve().parents[1]
_CODE = "import sys; from cli.main import main; sys.argv[0] = 'mosaic-secure'; sys.exit(main())"


@cache
def shown_help(*words: str) -> str:
    """The help of a command, wide enough that nothing is cut."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *words, "--help"],
        cwd=_HOUSE,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
