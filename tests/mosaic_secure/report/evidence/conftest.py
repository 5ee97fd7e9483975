from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ...tiny import Outcome, command, tiny_train


@dataclass(frozen=True)
class Made:
    """A pack of two runs, the second one audited; do not change it, nor the runs."""

    folder: Path
    zip: Path
    key: Path
    runs: tuple[Path, Path]
    outcome: Outcome

    @property
    def index(self) -> dict[str, Any]:
        return json.loads((self.folder / "index.json").read_bytes())

    @property
    def names(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def copy(self, place: Path) -> Path:
        return Path(shutil.copytree(self.folder, place / "copy"))


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run at epsilon 2, with an audit that may be shared."""
    from mosaic_secure.audit import evaluator, inversion

    place = tmp_path_factory.mktemp("audited")
    assert tiny_train(place, "--epsilon", "2", distill__steps=7).status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "STEPS", 5)
        patch.setattr(inversion, "STEPS", 2)
        patch.setattr(inversion, "RESTARTS", 1)
        assert command("audit", place / "run").status == 0
    return place / "run"


@pytest.fixture(scope="session")
def made(finished: Any, audited: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("evidence")
    folder, key = place / "pack", place / "own" / "evidence.key"
    outcome = command("report", finished.path, audited, "--out", folder, "--key", key, "--json")
    assert outcome.status == 0, outcome.err
    return Made(folder, place / "pack.zip", key, (finished.path, audited), outcome)
