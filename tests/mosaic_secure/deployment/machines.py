"""Machines with addresses of their own, each a Linux network namespace, joined by a bridge.

To be used inside namespaces of the caller's own (`confined`), so that the machine outside sees nothing of it
and nothing is left: when the first process inside ends, in whatever way, the kernel ends all others and
removes their network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .manual import HOUSE, SERVER

_END_SECONDS = 60.0
_PLACE = Path("/srv")
_LINK = Path(__file__).with_name("slow_link.py")
_OWN_TMP = (
    'mount --bind "$1" "$1" && mount -o remount,bind,ro / && mount -o remount,bind,ro /srv && '
    "mount -t tmpfs -o mode=1777 none /tmp"
)
_AS_IT_SAYS = 'cd "$1" && shift && exec "$@"'
_NO_RIGHTS = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def confined(words: Sequence[str]) -> list[str]:
    """The command that runs `words` as first process of new namespaces, which end with the caller."""
    namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *words]


def why_not() -> str | None:
    """What this machine lacks for it, None if nothing."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    probe = "mount -t tmpfs none /run && mkdir /run/netns && ip netns add a && ip netns exec a true"
    links = "ip link add bridge0 type bridge && ip link add cable0 type veth peer name eth0 netns a"
    try:
        done = subprocess.run(
            confined(["sh", "-c", f"{probe} && {links}"]), capture_output=True, text=True, timeout=60
        )
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else f"no network namespaces here: {done.stderr.strip()[:200]}"


@dataclass
class Started:
    """A command that goes on, and the file that its words go to."""

    words: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until(self, words: str, seconds: float = 240.0) -> None:
        """Wait until it has said `words`."""
        wait(lambda: words in self.text or self.process.poll() is not None, seconds, lambda: self.text)
        assert words in self.text, f"ended with {self.process.poll()}:\n{self.text}"

    def end(self, seconds: float = 240.0) -> int:
        """Wait for its end; its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:g} s:\n{self.text}") from None


@dataclass
class Machines:
    """The machines of one test, each with a folder of its own under `place`.

    Args:
        place: an empty folder, seen as /srv inside. names: of the machines; the first is known to all as
            fl.example.org. environment: of every command.
        user: who runs all commands; one that is not root has no capability, and may write below the
            machine's folder and /tmp alone, as in a container or under systemd's ProtectSystem=strict.
    """

    place: Path
    names: Sequence[str]
    environment: Mapping[str, str]
    user: int = 0
    started: list[Started] = field(default_factory=list)
    _slow: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _programs: dict[Path, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place.chmod(0o755)
        _do("mount", "--bind", str(self.place), str(_PLACE))
        self.place = _PLACE
        _do("mount", "-t", "tmpfs", "none", "/run")
        Path("/run/netns").mkdir()
        if self.user:
            self._programs = _open_ways([Path(sys.base_prefix), Path(sys.prefix), HOUSE])
        hosts = self.place / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.address(self.names[0])} {SERVER}\n")
        _do("mount", "--bind", str(hosts), "/etc/hosts")
        _do("ip", "link", "add", "bridge0", "type", "bridge")
        _do("ip", "link", "set", "bridge0", "up")
        for name in self.names:
            self.folder(name).mkdir()
            self.hand_over(self.folder(name))
            _do("ip", "netns", "add", name)
            _do("ip", "link", "add", self._cable(name), "type", "veth", "peer", "name", "eth0", "netns", name)
            _do("ip", "link", "set", self._cable(name), "master", "bridge0", "up")
            _do("ip", "-n", name, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _do("ip", "-n", name, "link", "set", device, "up")

    def address(self, name: str) -> str:
        """Of a network that RFC 5737 keeps for examples."""
        return f"192.0.2.{self.names.index(name) + 1}"

    def folder(self, name: str) -> Path:
        """Where a machine's commands run."""
        return self.place / name

    def hand_over(self, path: Path) -> None:
        """Give a file, or a folder with all in it, to the user who runs commands."""
        for each in (path, *path.rglob("*")):
            shutil.chown(each, self.user, self.user)

    def cut(self, name: str) -> None:
        """Pull the machine's cable."""
        _do("ip", "link", "set", self._cable(name), "down")

    def mend(self, name: str) -> None:
        """Put it back."""
        _do("ip", "link", "set", self._cable(name), "up")

    def slow(self, name: str, delay: float, share: float) -> None:
        """Put something into the machine's cable: each frame takes `delay` seconds more, a share is lost."""
        number = self.names.index(name)
        near, far, hub = f"near{number}", f"far{number}", f"hub{number}"
        words = [sys.executable, str(_LINK), near, far, str(delay), str(share)]
        self._slow[name] = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._slow[name].stdout.readline(), "no slow link"
        _do("ip", "link", "add", hub, "type", "bridge")
        for device, bridge in ((self._cable(name), hub), (near, hub), (far, "bridge0")):
            _do("ip", "link", "set", device, "master", bridge, "up")
        _do("ip", "link", "set", hub, "up")

    def fast(self, name: str) -> None:
        """Take it out again."""
        link = self._slow.pop(name)
        link.kill()
        link.wait()
        link.stdout.close()
        _do("ip", "link", "set", self._cable(name), "master", "bridge0")
        _do("ip", "link", "del", f"hub{self.names.index(name)}")

    def switch_off(self, name: str) -> None:
        """Kill all that runs on the machine; its files stay."""
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
        _do("kill", "-KILL", *pids.stdout.split())

    def run(
        self, name: str, words: Sequence[str], seconds: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine; what it says and its exit status."""
        return subprocess.run(
            self._at(name, words),
            cwd=self.folder(name),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def start(self, name: str, words: Sequence[str]) -> Started:
        """Start a command on a machine that goes on until the test ends."""
        log = self.place / f"{name}-{len(self.started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._at(name, words),
                cwd=self.folder(name),
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started.append(Started(words, process, log))
        return self.started[-1]

    def close(self) -> None:
        """End what was started, the first last, and remove the machines."""
        for name in list(self._slow):
            self.fast(name)
        for going in reversed(self.started):
            going.process.terminate()
        for going in reversed(self.started):
            try:
                going.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                going.process.kill()
                going.process.wait()
        for name in self.names:
            _do("ip", "netns", "del", name)
        _do("ip", "link", "del", "bridge0")
        for place in ("/etc/hosts", "/run", str(_PLACE)):
            _do("umount", "--recursive", "--lazy", place)

    def _cable(self, name: str) -> str:
        return f"cable{self.names.index(name)}"

    def _read_only(self) -> str:
        """A shell's words; what a command needs that lies below /tmp stays there, read-only too."""
        words = [_OWN_TMP]
        for place, kept in self._programs.items():
            if place.is_relative_to("/tmp"):
                words.append(
                    f"mkdir -p {place} && mount --bind {kept} {place} && mount -o remount,bind,ro {place}"
                )
        return " && ".join([*words, _AS_IT_SAYS])

    def _at(self, name: str, words: Sequence[str]) -> list[str]:
        first, *rest = words
        program = [sys.executable, "-P", "-m", "cli"] if first == "mosaic-secure" else [first]
        there = ["ip", "netns", "exec", name]
        if self.user:
            there += ["sh", "-c", self._read_only(), "sh", str(self.folder(name))]
            there += ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", *_NO_RIGHTS]
        return [*there, *program, *rest]


def wait(done: Callable[[], bool], seconds: float, told: Callable[[], str] = lambda: "") -> None:
    """Wait until `done`; fails with what `told` says."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {told()}"
        time.sleep(0.2)


def environment() -> dict[str, str]:
    """Of every command of a test: this project, quiet libraries, one thread each."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {"PYTHONPATH": str(HOUSE), "HOME": "/tmp", **threads}


def _open_ways(places: Sequence[Path]) -> dict[Path, Path]:
    """Let others reach `places`, and them alone, where a folder on the way is closed to them, such as /root.

    Returns:
        Of each place that is not inside another: where it is seen as well, whatever is mounted over it.
    """
    outermost = [each for each in dict.fromkeys(places) if not any(other in each.parents for other in places)]
    kept = {place: Path("/run/kept") / place.as_posix().replace("/", "-") for place in outermost}
    for place, other in kept.items():
        other.mkdir(parents=True)
        _do("mount", "--bind", str(place), str(other))
    closed = [_closed(place) for place in outermost]
    for parent in {each for each in closed if each is not None}:
        _do("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(parent))
    for place, parent in zip(outermost, closed, strict=True):
        if parent is not None:
            place.mkdir(parents=True)
            _do("mount", "--bind", str(kept[place]), str(place))
    return kept


def _closed(place: Path) -> Path | None:
    """The first folder on the way to it that others may not enter."""
    return next((each for each in reversed(place.parents) if not each.stat().st_mode & 0o001), None)


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
