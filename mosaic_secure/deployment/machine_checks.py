"""Whether a machine can take part at all: versions, processor, memory, disk, GPU."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mosaic_secure.deployment.findings import Finding, ok, problem, warning

__all__ = ["check_machine"]

DISTRIBUTION = "mosaic-secure"
_NAMED = ("torch", "torchvision", "opacus", "tenseal", "flwr", "numpy")
_LOADED = ("torch", "opacus", "tenseal", "flwr")
_GB = 1 << 30
LITTLE_DISK, NO_DISK = 2 * _GB, _GB // 4
LITTLE_MEMORY = 2 * _GB
_REINSTALL = "install with `pip install -c constraints.txt -e .` from the project's folder"


def check_machine(place: Path) -> list[Finding]:
    """Everything about the machine; `place` is where runs or a party's files will lie."""
    return [
        *check_versions(),
        check_gpu(),
        check_cores(),
        check_memory(),
        check_disk(place),
    ]


def check_versions(requirements: Iterable[str] | None = None, python: str | None = None) -> list[Finding]:
    """Versions of Python and of what the project requires, and whether the heavy libraries load.

    Args:
        requirements: as in pyproject.toml. python: such as ">=3.11". By default those of the installed
            distribution.
    """
    if requirements is None:
        try:
            requirements = metadata.requires(DISTRIBUTION) or ()
            python = python or metadata.metadata(DISTRIBUTION)["Requires-Python"]
        except metadata.PackageNotFoundError:
            return [warning("versions", f"{DISTRIBUTION} is not installed, so none is checked", _REINSTALL)]
    findings = [_python(python or "")]
    held, others = [], 0
    for text in requirements:
        finding, name, version = _requirement(text)
        if finding is not None:
            findings.append(finding)
        elif version and name in _NAMED:
            held.append(f"{name} {version}")
        elif version:
            others += 1
    more = f" and {others} more" if others else ""
    if held:
        findings.append(ok("versions", f"{', '.join(sorted(held))}{more} are as required"))
    return [*findings, *_loads()]


def check_gpu() -> Finding:
    """Which GPU the server would compute on; none is needed."""
    try:
        torch = importlib.import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = sorted({torch.cuda.get_device_name(index) for index in range(count)})
    except Exception as error:  # a broken driver raises what it likes
        advice = "mend the driver, or set engine.device=cpu"
        return warning("gpu", f"asking for one failed ({type(error).__name__})", advice)
    if count:
        return ok("gpu", f"{count} ({', '.join(names)})")
    if shutil.which("nvidia-smi"):
        advice = "install a torch built for this driver's CUDA, or go on with the CPU"
        return warning("gpu", "there is an NVIDIA driver, but torch cannot use it", advice)
    return ok("gpu", "none; all runs on the CPU, and clients need no other")


def check_cores() -> Finding:
    """How many cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return warning("cores", "1 for this process: training and Flower share it", "give it 2 or more")
    return ok("cores", f"{cores} for this process")


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """How much memory is to be had (of the machine; a container may be allowed less)."""
    try:
        lines = meminfo.read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return warning("memory", f"{meminfo} does not say how much there is", "see that 2 GB are free")
    if free < LITTLE_MEMORY:
        found = f"{free / _GB:.1f} GB are free, and a party with its libraries takes 1 to 2"
        return warning("memory", found, "free some, or expect this machine to be slow")
    return ok("memory", f"{free / _GB:.1f} GB are free")


def check_disk(place: Path) -> Finding:
    """Whether files can be made at `place`, and for how many there is room."""
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"doctor")
            probe.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        found = f"{place} cannot be written ({error.strerror})"
        return problem("disk", found, "run as its owner, or choose another place")
    if free < NO_DISK:
        return problem("disk", f"{free / _GB:.2f} GB are free at {place}", "free 2 GB or more")
    if free < LITTLE_DISK:
        return warning("disk", f"{free / _GB:.1f} GB are free at {place}", "free 2 GB or more")
    return ok("disk", f"{place} can be written, {free / _GB:.0f} GB are free")


def _python(wanted: str) -> Finding:
    version = platform.python_version()
    try:
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier:
        return warning("python", f"{version}; the requirement {wanted!r} cannot be read", _REINSTALL)
    if fits:
        return ok("python", version)
    return problem("python", f"{version}, but {wanted} is required", "make an environment with that Python")


def _requirement(text: str) -> tuple[Finding | None, str, str]:
    """What is wrong with one requirement, its name, and the version that is installed."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return warning("versions", f"the requirement {text!r} cannot be read", _REINSTALL), "", ""
    name = requirement.name
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None, name, ""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return problem(name, f"is not installed; {text} is required", _REINSTALL), name, ""
    if not requirement.specifier.contains(version, prereleases=True):
        return problem(name, f"{version}, but {requirement.specifier} is required", _REINSTALL), name, ""
    return None, name, version


def _loads() -> list[Finding]:
    found = []
    for name in _LOADED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a binary that does not fit raises what it likes
            found.append(problem(name, f"cannot be loaded ({type(error).__name__})", _REINSTALL))
    return found
