from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tiny_app_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
