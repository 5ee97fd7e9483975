"""The files of docs/deploy: no root, no secrets, commands that exist, units that systemd reads."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .shown_help import shown_help

HOUSE = Path(__file__).resolve().parent.parent
DEPLOY = HOUSE / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
COPIED = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} | {
    "privacy",
    "attacks",
    "mosaic_secure",
    "cli",
    "configs",
}
PROGRAM = "/opt/mosaic-secure/.venv/bin/mosaic-secure"
EXPOSURE = 20  # tenths, of at most 100: what systemd-analyze calls OK ends at 40
ONCE = {  # settings of a unit -> what a role needs of them
    "User": "mosaic-secure",
    "NoNewPrivileges": "true",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "Restart": "on-failure",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
}


def _check_command(words: list[str]) -> None:
    name = words[:2] if words[0] == "keys" else words[:1]
    for option in (word for word in words if word.startswith("--")):
        assert option in shown_help(*name), words
    assert shown_help(*name)


def _instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def _given(name: str) -> list[str]:
    return [rest for found, rest in _instructions() if found == name]


def test_the_image_runs_as_nobody_in_particular() -> None:
    users = _given("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    after = [name for name, _ in _instructions()]
    assert "RUN" not in after[after.index("USER") :]


def test_the_image_holds_the_program_and_nothing_else() -> None:
    sources = [word for rest in _given("COPY") for word in rest.split()[:-1]]
    assert set(sources) == COPIED
    assert all((HOUSE / source).exists() for source in sources)
    assert not _given("ADD")
    told = " ".join(_given("ENV") + _given("ARG")).lower()
    assert not re.search("secret|password|token|_key|key=", told)


def test_what_the_image_runs_exists() -> None:
    assert [json.loads(rest) for rest in _given("ENTRYPOINT")] == [["mosaic-secure"]]
    (health,) = _given("HEALTHCHECK")
    words = shlex.split(health.partition("CMD ")[2])
    assert words == ["mosaic-secure", "doctor", "$MOSAIC_PLACE"]
    assert any("MOSAIC_PLACE=/kit" in rest for rest in _given("ENV"))
    _check_command(words[1:])


def test_the_image_needs_a_python_that_the_project_allows() -> None:
    (base,) = _given("FROM")
    assert re.fullmatch(r"docker\.io/library/python:3\.1[12]-slim-bookworm", base)


def _services() -> dict[str, dict[str, object]]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.mark.parametrize("name", ["found", "server", "authority", "client-0", "client-1"])
def test_a_service_is_confined_and_its_command_exists(name: str) -> None:
    service = _services()[name]
    assert set(_services()) == {"found", "server", "authority", "client-0", "client-1"}
    assert service["read_only"] is True and service["init"] is True
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service and "privileged" not in service
    assert not str(service["user"]).startswith(("0", "root"))
    _check_command(service["command"])


def test_a_party_of_the_trial_sees_its_own_kit_alone() -> None:
    services = _services()
    for name in ("authority", "client-0", "client-1"):
        assert services[name]["volumes"] == [f"./state/federation/kits/{name}:/kit"]
    words = services["found"]["command"]
    assert words[words.index("--server") + 1] == "server:8443"  # the name of that service in its network
    assert int(words[words.index("--clients") + 1]) == sum(name.startswith("client-") for name in services)
    assert services["found"]["network_mode"] == "none"


def _settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_confined_and_its_command_exists(unit: Path) -> None:
    settings = _settings(unit)
    for name, value in ONCE.items():
        assert settings[name] == [value], name
    (start,) = settings["ExecStart"]
    program, *words = shlex.split(start)
    assert program == PROGRAM
    _check_command(words)
    (writes,) = settings["ReadWritePaths"]
    assert writes == "/var/lib/mosaic-secure" + ("" if words[0] == "serve" else f"/{words[1]}")


def test_there_is_a_unit_for_each_role() -> None:
    started = {shlex.split(_settings(unit)["ExecStart"][0])[1] for unit in UNITS}
    assert started == {"serve", "authority", "join"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_a_unit_and_finds_it_confined(unit: Path, tmp_path: Path) -> None:
    own = tmp_path / unit.name
    program = shutil.which("true") or "/bin/true"
    own.write_text(unit.read_text(encoding="utf-8").replace(PROGRAM, program), encoding="utf-8")
    for words in (["verify"], ["security", "--offline=true", f"--threshold={EXPOSURE}"]):
        done = subprocess.run(
            ["systemd-analyze", *words, str(own)], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert words != ["verify"] or not done.stderr.strip(), done.stderr
