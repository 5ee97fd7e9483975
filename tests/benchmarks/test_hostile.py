"""What the hostile clients of the benchmark do, and that the document says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mosaic_secure.data.records import ClientData

HOUSE = Path(__file__).resolve().parents[2]
DOCUMENT = (HOUSE / "docs" / "robustness.md").read_text(encoding="utf-8")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The benchmark and its ClientApp, which changes how clients load records while it is there."""
    from mosaic_secure.client import session

    monkeypatch.syspath_prepend(str(HOUSE / "benchmarks"))
    monkeypatch.setattr(session, "load_client", session.load_client)  # put back afterwards
    for name in ("hostile", "hostile_app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import hostile
    import hostile_app

    return hostile, hostile_app


def test_the_tables_of_the_document_are_those_of_the_results(tools) -> None:
    hostile, _ = tools
    assert hostile.table() in DOCUMENT
    found = json.loads((HOUSE / "benchmarks" / "results" / "many_clients.json").read_text(encoding="utf-8"))
    for run in found["runs"]:
        cells = (run["clients"], f"{run['peak_rss_mib']:.0f}", f"{run['peak_anonymous_mib']:.0f}")
        assert "| " + " | ".join(map(str, cells)) + " |" in DOCUMENT
    assert (
        found["ratio_rss"] <= 1.2
        and found["runs"][0]["clients"] == 10
        and found["runs"][-1]["clients"] == 200
    )


def test_every_result_is_of_an_honest_crowd_of_ten(tools) -> None:
    hostile, _ = tools
    for row in hostile.rows():
        for run in hostile.kept(row)["runs"]:
            assert len(run["hostile"]) == row.hostile and max(run["hostile"], default=0) < hostile.CLIENTS
            assert run["left_out"] == []  # what poisons here passes the checks


def test_records_are_poisoned_as_the_table_says(tools) -> None:
    _, app = tools
    images = np.zeros((200, 1, 8, 8), np.float32)
    labels = np.arange(200) % 10
    data = ClientData(images, labels, 200, 10)
    flipped = app.poisoned(data, "flip")
    assert (flipped.labels == (labels + 1) % 10).all() and flipped.images is images
    aimed = app.poisoned(data, "targeted")
    assert (aimed.labels[labels == 7] == 1).all() and (aimed.labels[labels != 7] == labels[labels != 7]).all()
    secret = app.poisoned(data, "backdoor")
    changed = secret.images.any(axis=(1, 2, 3))
    assert 60 < changed.sum() < 120 and not changed[labels == 0].any()
    assert (secret.labels[changed] == 0).all() and (secret.labels[~changed] == labels[~changed]).all()
    assert secret.images[changed][0].sum() == 4 and not images.any()
