"""`train --federation` follows a run, and starts it again while that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.deployment import driver
from mosaic_secure.deployment.driver import train_deployed
from mosaic_secure.deployment.requests import Outbox, Request
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress

from ..tiny import tiny_config

RESULT = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "auc", "fresh_student_accuracy", "run")),
    **dict.fromkeys(("teacher_accuracy", "teacher_balanced_accuracy", "teacher_auc")),
    **{"epsilon": 4.0, "delta": 1e-4, "dataset": "digits", "clients": 3, "device": "cpu"},
    **{"trust": "local", "method": "mosaic", "seconds": 1.0},
}


class _Link:
    """Stands for the SuperLink: every run that is started does as `play` says, at once."""

    def __init__(self, server: Path, play: Callable[[int, Outbox], None]) -> None:
        self._server, self._play = server, play
        self.started: list[Request] = []

    def start(self, name: str) -> int:
        self.started.append(Request.load(self._server, name))
        self._play(len(self.started), Outbox(self._server, name))
        return len(self.started)

    def has_ended(self, run: int) -> bool:
        return True

    def close(self) -> None: ...


@pytest.fixture
def follow(federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(driver, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(driver, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(driver, "_POLL_SECONDS", 0.0)

    def attempt(play: Callable[[int, Outbox], None]) -> tuple[_Link, Any]:
        link = _Link(federation / "server", play)
        monkeypatch.setattr(driver, "Control", lambda *_: link)
        config = tiny_config(engine__name="deployed")
        try:
            return link, train_deployed(config, federation, out=tmp_path / "run")
        except UserError as error:
            return link, str(error)

    return attempt


def tell(outbox: Outbox, stage: str, done: int) -> None:
    outbox.tell("progress", vars(Progress(stage, done, 9)))


@pytest.mark.parametrize("last", ["failed", None])
def test_a_run_that_fails_the_same_way_each_time_is_given_up(follow, last: str | None):
    def play(_: int, outbox: Outbox) -> None:
        for stage, done in (("planning", 1), ("enrolment", 1), ("prototypes", 2)):
            tell(outbox, stage, done)
        if last:
            outbox.tell(last, {"error": "CUDA out of memory"})

    link, found = follow(play)
    assert "ended 5 times without getting further" in found and "runs.log" in found
    assert len(link.started) == 6  # the first got somewhere
    assert [request.resume for request in link.started] == [False] + [True] * 5


def test_a_run_that_gets_further_each_time_is_started_again(follow):
    def play(attempt: int, outbox: Outbox) -> None:
        for done in range(attempt + 1):
            tell(outbox, "prototypes", done)
        if attempt == 9:
            outbox.tell("result", {"result": RESULT})

    link, found = follow(play)
    assert len(link.started) == 9 and found.epsilon == 4.0


def test_what_the_server_refuses_is_not_asked_again(follow):
    link, found = follow(lambda _, outbox: outbox.tell("refused", {"error": "no: because"}))
    assert found == "no: because" and len(link.started) == 1


def test_an_order_that_came_twice_is_carried_out_once(tmp_path: Path):
    name = Request({}, "out", False, False).save(tmp_path)
    assert Request.claim(tmp_path, name) == Request({}, "out", False, False)
    assert Request.claim(tmp_path, name) is None
    with pytest.raises(UserError, match="is not there"):
        Request.claim(tmp_path, "another")
