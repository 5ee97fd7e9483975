"""The benchmarks' scripts, loaded by path: the import name `benchmarks` belongs to another distribution."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """Script by name -> its module, made anew."""

    def load_script(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_tool", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load_script
