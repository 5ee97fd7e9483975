"""`train --federation`: asks the server on this machine for a run, follows it, and goes on after faults."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mosaic_secure.client.rules import ledger_population
from mosaic_secure.config import RunConfig
from mosaic_secure.deployment.control import Control
from mosaic_secure.deployment.founding import load_federation
from mosaic_secure.deployment.kits import check_deployable
from mosaic_secure.deployment.requests import Request, events_path, read_events
from mosaic_secure.engine.local import RunResult
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress, ProgressCallback

__all__ = ["train_deployed"]

_POLL_SECONDS = 0.3
_LOOK_SECONDS = 2.0  # between two looks at what Flower says of the run
_AWAY_SECONDS = 600.0  # a server that is away so long is not waited for
_REST_SECONDS = 6.0  # what was making the run ends by itself within this time
_MOST_STARTS_WITHOUT_PROGRESS = 5


class _Lost(Exception):
    """What made the run has ended without saying how."""


def train_deployed(
    config: RunConfig,
    place: Path,
    *,
    out: Path,
    resume: bool = False,
    ablate: bool = False,
    progress: ProgressCallback | None = None,
    port: int | None = None,
) -> RunResult:
    """Have the federation at `place` make a run, and wait for it. The server must be running on this machine.

    A run whose process or SuperLink ends is started again and goes on from its last checkpoint.

    Args:
        place: the federation's folder. out: the run directory.
        resume: continue the run in `out`. ablate: as in `mosaic_secure.engine.local.train`.
        port: of the SuperLink; that of the description when None.

    Raises:
        UserError: the configuration is for another federation, the server is away, or it refuses the run.
    """
    check_deployable(config)
    federation = load_federation(place)
    if list(config.client_ids) != list(federation.pinned):
        raise UserError(
            f"clients.count = {config.clients.count}: federation {federation.name} has "
            f"{len(federation.clients)} clients; use --clients {len(federation.clients)}"
        )
    if (population := ledger_population(config)) != federation.population:
        raise UserError(
            f"--config is about population {population!r}, federation {federation.name} about "
            f"{federation.population!r}: its clients would refuse"
        )
    tell = progress or (lambda _: None)
    control = Control(port or federation.port, place / "server" / "ca.pem")
    started, fruitless = time.monotonic(), 0
    reached: set[tuple[str, int]] = set()
    try:
        while True:
            request = Request(config.to_dict(), str(out.absolute()), resume, ablate)
            before = len(reached)
            following = _Following(place / "server", request.save(place / "server"), control, tell, reached)
            try:
                found = following.to_the_end()
                break
            except _Lost:
                fruitless = 0 if len(reached) > before else fruitless + 1
                if fruitless >= _MOST_STARTS_WITHOUT_PROGRESS:
                    raise UserError(
                        f"server: the run in {out} ended {fruitless} times without getting further; "
                        f"see {place}/server/logs/runs.log"
                    ) from None
                tell(Progress("federation", note="the run was lost; it is started again and goes on"))
                time.sleep(_REST_SECONDS)
                resume = True
    finally:
        control.close()
    result = {**found, "run": str(out), "epsilon": float(found["epsilon"])}
    result["seconds"] = round(time.monotonic() - started, 2)
    return RunResult(**{**result, "ablation": tuple(result.get("ablation", ()))})


class _Following:
    """One attempt at the run: started, followed, and stopped if the caller is interrupted.

    `reached`: how far any attempt has come so far, stage by stage; this one adds to it.
    """

    def __init__(
        self,
        server: Path,
        name: str,
        control: Control,
        tell: ProgressCallback,
        reached: set[tuple[str, int]],
    ) -> None:
        self._events, self._name = events_path(server, name), name
        self._control, self._tell, self._reached = control, tell, reached
        self._seen = 0

    def to_the_end(self) -> dict[str, Any]:
        """The result.

        Raises:
            UserError: the server refuses, or is away. _Lost: the run ended without an outcome.
        """
        run = self._patiently(lambda: self._control.start(self._name))
        try:
            return self._follow(run)
        except KeyboardInterrupt:
            self._control.stop(run)
            raise

    def _follow(self, run: int) -> dict[str, Any]:
        look = time.monotonic() + _LOOK_SECONDS
        while True:
            outcome = self._read()
            if outcome is not None:
                return outcome
            if time.monotonic() >= look:
                if self._patiently(lambda: self._control.has_ended(run)):
                    time.sleep(_POLL_SECONDS)
                    if (outcome := self._read()) is not None:
                        return outcome
                    raise _Lost
                look = time.monotonic() + _LOOK_SECONDS
            time.sleep(_POLL_SECONDS)

    def _read(self) -> dict[str, Any] | None:
        events, self._seen = read_events(self._events, self._seen)
        for event in events:
            kind = event.pop("kind")
            if kind == "progress":
                report = Progress(**event)
                self._reached.add((report.stage, report.done))
                self._tell(report)
            elif kind == "result":
                return dict(event["result"])
            elif kind == "refused":
                raise UserError(event["error"])
            else:  # interrupted or failed: not by the run's own doing, or not known
                raise _Lost
        return None

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """What `ask` gives; a server that is away is waited for."""
        end = time.monotonic() + _AWAY_SECONDS
        told = False
        while True:
            try:
                return ask()
            except UserError as error:
                if time.monotonic() > end:
                    raise
                if not told:
                    self._tell(Progress("federation", note=f"waits for the server; {error}"))
                    told = True
                time.sleep(_LOOK_SECONDS)
