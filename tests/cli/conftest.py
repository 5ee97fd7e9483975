from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on the last line of standard output."""
        return json.loads(self.out.rstrip("\n").rsplit("\n", 1)[-1])

    @property
    def refusal(self) -> str:
        """The one line of a refused command, after checking that it is one and is nothing else."""
        assert self.status == 2
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture
def mosaic(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        texts: Sequence[str] = [str(argument) for argument in arguments]
        capfd.readouterr()
        status = main(texts)
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run
