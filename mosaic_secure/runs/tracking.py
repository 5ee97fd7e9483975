"""Experiment trackers: TensorBoard and MLflow learn what a run has released, and nothing else.

During a run they are told losses of the server's own training, which follow from what clients released. When
it is sealed they are told its budget, its scores on public test records and how much was sent. Where data lie
is never told. A tracker that fails is given up with a warning: it does not cost the run.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import parse_json
from mosaic_secure.runs.manifest import flat

__all__ = ["KINDS", "Tracker", "Tracking", "check_trackers", "open_trackers", "parse_kinds"]

KINDS = ("tensorboard", "mlflow")
EXPERIMENT = "mosaic-secure"
PUBLIC_TEST = "public test"
_UNTOLD = ("data.", "engine.", "partition.path")
_TOLD = "data.dataset"
_SCORES = ("accuracy", "balanced accuracy", "auc")
_MOST_TEXT, _MOST_AT_ONCE = 500, 100  # MLflow's own limits: letters of a parameter, parameters of a batch


class Tracker(Protocol):
    """One tracker of one run; its methods may raise anything."""

    def reading(self, name: str, step: int, value: float) -> None:
        """A number of a training in progress."""

    def finish(self, parameters: Mapping[str, str], results: Mapping[str, float]) -> None:
        """What the sealed run says of itself."""

    def close(self) -> None:
        """Nothing more will come."""


class _TensorBoard:
    def __init__(self, run: str, folder: Path) -> None:
        self._writer = self.check(folder)(str(folder / run))

    @staticmethod
    def check(folder: Path) -> Any:
        """The class that writes, once it is sure that it can."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--log tensorboard: needs the package tensorboard; pip install 'mosaic-secure[tensorboard]'"
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "Permission denied")
        except OSError as error:
            raise UserError(f"--log-dir {folder}: cannot be written: {error.strerror or error}") from error
        return SummaryWriter

    def reading(self, name: str, step: int, value: float) -> None:
        self._writer.add_scalar(name, value, step)

    def finish(self, parameters: Mapping[str, str], results: Mapping[str, float]) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in parameters.items())
        self._writer.add_text("configuration", f"| field | value |\n| --- | --- |\n{rows}")
        for name, value in results.items():
            self._writer.add_scalar(name, value, 0)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, run: str, folder: Path) -> None:
        self._client, known = self.check(folder)
        experiment = self._client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
        self._run = self._client.create_run(experiment, run_name=run).info.run_id
        self._done = False

    @staticmethod
    def check(_folder: Path) -> tuple[Any, Any]:
        """A client of a server that answers, and the experiment if the server has it."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise UserError(
                "--log mlflow: needs the package mlflow-skinny; pip install 'mosaic-secure[mlflow]'"
            ) from None
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            raise UserError(
                "--log mlflow: set MLFLOW_TRACKING_URI to your tracking server, such as http://localhost:5000"
            )
        try:
            client = MlflowClient(place)
            return client, client.get_experiment_by_name(EXPERIMENT)
        except Exception as error:
            raise UserError(f"--log mlflow: MLFLOW_TRACKING_URI does not do: {_first_line(error)}") from error

    def reading(self, name: str, step: int, value: float) -> None:
        self._client.log_metric(self._run, _plain(name), value, step=step)

    def finish(self, parameters: Mapping[str, str], results: Mapping[str, float]) -> None:
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        told = [Param(_plain(name), text[:_MOST_TEXT]) for name, text in parameters.items()]
        found = [Metric(_plain(name), value, now, 0) for name, value in results.items()]
        for at in range(0, max(len(told), len(found)), _MOST_AT_ONCE):
            part = slice(at, at + _MOST_AT_ONCE)
            self._client.log_batch(self._run, metrics=found[part], params=told[part])
        self._done = True

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED" if self._done else "KILLED")


_MAKERS: Mapping[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}


class Tracking:
    """All trackers of one run; one that fails is given up, and `warn` is told once."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._trackers: dict[str, Tracker] = {}
        self._warn = warn

    def add(self, kind: str, make: Callable[[], Tracker]) -> None:
        """One more that is told."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._trackers[kind] = make()
        except Exception as error:
            self._give_up(kind, error)

    def read(self, name: str, step: int, value: float) -> None:
        """A `ReadingCallback` for training."""
        self._each(lambda tracker: tracker.reading(name, step, value))

    def finish(self, path: Path) -> None:
        """Tell what the sealed run at `path` says of itself."""

        def tell(tracker: Tracker) -> None:
            run = RunDirectory.open(path)
            tracker.finish(_parameters(run.manifest), _results(run))

        self._each(tell)

    def close(self) -> None:
        """End all trackers."""
        self._each(lambda tracker: tracker.close())

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._trackers.items()):
            try:
                # MLflow prints an address, with the password in it, where --json has the word.
                with contextlib.redirect_stdout(io.StringIO()):
                    tell(tracker)
            except Exception as error:
                del self._trackers[kind]
                self._give_up(kind, error)

    def _give_up(self, kind: str, error: Exception) -> None:
        self._warn(f"--log {kind}: given up for this run, which goes on: {_first_line(error)}")


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """Kinds out of ``tensorboard,mlflow``; raises UserError for another word."""
    kinds = tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--log {text}: {kind!r} is no tracker; choose from {', '.join(KINDS)}")
    if text is not None and not kinds:
        raise UserError(f"--log: names no tracker; choose from {', '.join(KINDS)}")
    return kinds


def check_trackers(kinds: Sequence[str], folder: Path, config: RunConfig) -> None:
    """Refuse what cannot or must not be told, before anything is made.

    Raises:
        UserError: a package is missing, a server does not answer, a folder cannot be written; or the data are
            private and what is released of them is not protected.
    """
    if not config.is_public and config.no_noise:
        raise UserError("--log: the data are private and a run at epsilon inf protects nothing; leave it out")
    for kind in kinds:
        _MAKERS[kind].check(folder)


@contextlib.contextmanager
def open_trackers(
    kinds: Sequence[str], run: str, folder: Path, warn: Callable[[str], None]
) -> Iterator[Tracking]:
    """Trackers of a run while the block lasts.

    Args:
        kinds: out of :data:`KINDS`. run: its name. folder: where TensorBoard's files go, each run in one of
            its own.

    One that cannot begin is given up with a warning; `check_trackers` told before what can be told before.
    """
    tracking = Tracking(warn)
    try:
        for kind in kinds:
            tracking.add(kind, partial(_MAKERS[kind], run, folder))
        yield tracking
    finally:
        tracking.close()


def _parameters(content: Mapping[str, Any]) -> dict[str, str]:
    """The configuration, but for where data lie and who works."""
    fields = {
        name: value
        for name, value in flat(content["config"]).items()
        if name == _TOLD or not name.startswith(_UNTOLD)
    }
    fields |= {name: content[name] for name in ("run_id", "config_hash", "mosaic_secure")}
    return {name: str(value) for name, value in sorted(fields.items())}


def _results(run: RunDirectory) -> dict[str, float]:
    """Budget, scores on public test records, traffic and time; what is infinite is left out."""
    found: dict[str, float] = {"seconds": float(run.manifest["result"]["seconds"])}
    statement = run.read_json("privacy.json")
    found |= {"privacy/epsilon": float(statement["epsilon"]), "privacy/delta": float(statement["delta"])}
    for row in statement["mechanisms"]:
        if row["share_of_mu_squared"] is not None:
            found[f"budget/{row['name']}"] = float(row["share_of_mu_squared"])
    for line in run.read_bytes("metrics.jsonl").splitlines():
        row = parse_json(line, "metrics.jsonl")
        if row.get("metric") in _SCORES and row.get("on") == PUBLIC_TEST and row.get("value") is not None:
            found[f"{row['metric']}/{row['of']}"] = float(row["value"])
    for line in run.read_bytes("messages.jsonl").splitlines():
        row = json.loads(line)
        name = f"bytes/{row['stage']}"
        found[name] = found.get(name, 0.0) + sum(field["bytes"] for field in row.get("fields", ()))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _plain(name: str) -> str:
    """A name as MLflow takes it: letters, digits and ``_-. :/``."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


def _first_line(error: Exception) -> str:
    """What went wrong, in one line and without a password that stands in an address."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"//[^/@\s]*@", "//", first)[:200]
