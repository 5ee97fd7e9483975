"""The house itself: names, weight, direction of imports, and what no room may contain."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
PACKAGES = ("mosaic_secure", "privacy", "attacks", "cli")
SOURCES = sorted(path for name in PACKAGES for path in (HOUSE / name).rglob("*.py"))
HEAVY = ("torch", "torchvision", "flwr", "tenseal", "opacus", "ray", "sklearn", "scipy", "matplotlib")
LONGEST_FILE = 400
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, timeout=120, check=False
    )


def _relative(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def _claimants(name: str) -> set[str]:
    """Distributions whose installed files lie under the top-level name, whichever way they declare it."""
    found = set()
    for distribution in importlib.metadata.distributions():
        declared = (distribution.read_text("top_level.txt") or "").split()
        files = distribution.files or ()
        inside = (file.parts[0] for file in files if file.suffix == ".py" and len(file.parts) > 1)
        if name in declared or name in inside or any(file.as_posix() == f"{name}.py" for file in files):
            found.add(distribution.metadata["Name"])
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_claims_our_import_names(name: str) -> None:
    # An editable install of ours lists no packages at all, so "ours or nobody" is the claim.
    assert _claimants(name) <= {"mosaic-secure"}
    assert set(importlib.metadata.packages_distributions().get(name, ())) <= {"mosaic-secure"}


def test_the_search_for_claimants_sees_installed_names() -> None:
    assert _claimants("opacus") == {"opacus"}


def test_all_four_names_import_from_the_same_place() -> None:
    places = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, f"{name} is not a package with an __init__.py"
        places[name] = Path(spec.origin).resolve().parent.parent
    assert set(places.values()) <= {HOUSE, Path(sysconfig.get_path("purelib")).resolve()}
    assert len(set(places.values())) == 1, places


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_a_root_package_is_light(name: str) -> None:
    done = _python(f"import sys, {name}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_help_page_is_light() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['mosaic-secure', '--help']\n"
        "from cli.main import main\n"
        "try:\n"
        "    status = main()\n"
        "except SystemExit as end:\n"
        "    status = end.code\n"
        f"print('loaded', [m for m in {HEAVY!r} if m in sys.modules], status or 0)\n"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded [] 0"


def test_imports_run_one_way() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = _python(code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_import_contracts_cover_every_root_package() -> None:
    settings = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(settings["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    assert set(PACKAGES) <= set(settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_no_file_loads_objects_that_can_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        unsafe = {name.split(".")[0] for name in names} & UNSAFE_MODULES
        assert not unsafe, f"{_relative(path)}:{node.lineno} imports {unsafe}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            place = f"{_relative(path)}:{node.lineno}"
            assert called not in {"torch.load", "torch.save"}, f"{place} calls {called}"
            for keyword in node.keywords:
                allows = keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                assert not allows, f"{place} allows pickles"


@pytest.mark.parametrize("path", SOURCES, ids=_relative)
def test_every_file_is_one_room_with_a_sign_on_its_door(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= LONGEST_FILE, f"{_relative(path)} has grown past {LONGEST_FILE} lines"
    assert ast.get_docstring(tree), f"{_relative(path)} does not say what it is for"
    checks = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not checks, f"{_relative(path)}:{checks} uses assert, which python -O removes"


@pytest.mark.parametrize("name", ["privacy", "attacks", "mosaic_secure"])
def test_libraries_do_not_print(name: str) -> None:
    for path in (HOUSE / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) != "print", f"{_relative(path)}:{node.lineno} prints"


def test_constraints_pin_versions_and_name_no_place_to_load_from() -> None:
    lines = (HOUSE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        name, equals, version = pin.partition("==")
        assert name and equals and version, f"not a pin: {pin!r}"
        assert not {"@", "/", "+"} & set(pin), f"tied to a place or a local build: {pin!r}"
