"""A client leaves a run, or all of them, whenever it wants."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mosaic_secure.client.session import ClientHome, Session
from mosaic_secure.client.withdrawal import (
    FOLDER,
    Withdrawn,
    check_takes_part,
    rejoin,
    withdraw,
    withdrawals,
)
from mosaic_secure.engine.local import train
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.protocol.messages import CODES, HelloRequest, LocalTrainingRequest, SealRequest

from ..tiny import CLIENTS, command, tiny_config
from .answering import RUN, client


def test_it_is_a_durable_file_for_the_owner_alone(tmp_path: Path):
    made = withdraw(tmp_path, RUN)
    (file,) = (tmp_path / FOLDER).iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_bytes())
    assert (kept["run_id"], kept["time"]) == (RUN, made.time) and made.time.startswith("20")
    assert withdrawals(tmp_path) == (made,)
    assert withdraw(tmp_path, RUN) == made  # it stays as it was
    for word in (RUN, made.time, "cannot be called back", "keeps what was spent"):
        assert word in made.text


def test_all_can_be_taken_back_and_one_run_cannot(tmp_path: Path):
    one, every = withdraw(tmp_path, RUN), withdraw(tmp_path)
    assert withdrawals(tmp_path) == (every, one)
    with pytest.raises(Withdrawn, match="all runs"):
        check_takes_part(tmp_path, "another")
    rejoin(tmp_path)
    check_takes_part(tmp_path, "another")
    with pytest.raises(Withdrawn, match=RUN):
        check_takes_part(tmp_path, RUN)
    with pytest.raises(UserError, match="nothing to take back"):
        rejoin(tmp_path)
    assert withdrawals(tmp_path) == (one,)


def test_a_damaged_file_opens_no_door(tmp_path: Path):
    for run_id in (RUN, None):
        withdraw(tmp_path, run_id)
        for content in (b"", b"{", b"[]", b'{"time":3}'):
            for file in (tmp_path / FOLDER).iterdir():
                file.write_bytes(content)
            with pytest.raises(Withdrawn):
                check_takes_part(tmp_path, RUN)
        assert withdrawals(tmp_path)[-1].time == ""


@pytest.mark.parametrize("name", ["../all", "a/b", "", "."])
def test_no_run_has_a_name_that_leads_elsewhere(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="run id"):
        withdraw(tmp_path, name)
    with pytest.raises(UserError, match="no such folder"):
        withdraw(tmp_path / "nobody")


@pytest.mark.parametrize("scope", [RUN, None])
def test_every_request_is_answered_with_the_one_word_and_nothing_is_released(tmp_path: Path, scope):
    assert "withdrawn" in CODES
    first = client(tmp_path, tiny_config())
    assert first.enrol().code == "ok"
    assert first.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "ok"
    made = first.charged
    withdraw(first.home.path, scope)
    for request in first.requests():  # what was released before is not sent again either
        answer = first.ask(request)
        assert answer.code == "withdrawn", type(request).__name__
        for name in ("classifier", "generator", "counts", "weights", "contribution"):
            assert not getattr(answer.message, name, None)
    assert first.ask(SealRequest(run_id=RUN, final=True)).code == "withdrawn"
    assert first.ask(HelloRequest(version="1")).code == "ok"  # it is still there, and says who it is
    assert first.charged == made == 3  # what was spent stays spent
    other = first.enrol(run_id="another").code
    assert other == ("ok" if scope else "withdrawn")
    if scope is None:
        rejoin(first.home.path)
        assert first.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "ok"
        assert first.charged == made


def test_a_run_that_is_left_for_good_leaves_no_secret_behind(tmp_path: Path):
    first = client(tmp_path, tiny_config(privacy__pairwise_masks=True))
    assert first.enrol().code == "ok"
    assert first.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "ok"
    secret = [first.home.path / name / RUN for name in ("secrets", "masks", "cache")]
    assert all(any(folder.iterdir()) for folder in secret)
    made = first.charged
    withdraw(first.home.path, RUN)
    assert first.home.end(RUN) and first.home.end(RUN)
    assert not any(folder.exists() for folder in secret)
    with first.home.ledger() as ledger:
        assert ledger.run(RUN).sealed
    assert first.charged == made
    assert first.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "withdrawn"


def test_a_request_that_was_under_way_when_its_run_was_left_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = client(tmp_path, tiny_config())
    first.enrol()

    def leave_meanwhile(self: Session) -> None:
        withdraw(first.home.path, RUN)
        first.home.end(RUN)
        monkeypatch.undo()
        self.home.cache(RUN).mkdir(parents=True)  # as of codes whose making had begun before
        self.check_allowed()

    monkeypatch.setattr(Session, "check_allowed", leave_meanwhile)
    assert first.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "withdrawn"
    assert not first.home.cache(RUN).exists() and not (first.home.path / "secrets" / RUN).exists()


def test_there_is_nothing_to_end_of_a_run_that_was_not_joined(tmp_path: Path):
    first = client(tmp_path, tiny_config())
    assert not first.home.end("another")  # before there is a ledger
    first.enrol()
    assert not first.home.end("another")
    with first.home.ledger() as ledger:
        assert not ledger.run(RUN).sealed


def test_a_run_goes_on_without_a_client_that_leaves_between_two_rounds(tmp_path: Path):
    ledgers, notes = tmp_path / "ledgers", []
    home = ClientHome(ledgers / "digits-3" / "client-1", "client-1")

    def leave(progress: Progress) -> None:
        notes.append(progress.note)
        if progress.stage == "prototypes" and progress.done == 1:
            run_id = json.loads((tmp_path / "run" / "manifest.json").read_bytes())["run_id"]
            withdraw(home.path, run_id)

    result = train(tiny_config(), out=tmp_path / "run", ledger_dir=ledgers, progress=leave)
    assert result.accuracy is not None
    assert "goes on without client-1: withdrawn" in notes
    with home.ledger() as ledger:
        (run,) = ledger.runs()
    assert {name for name, made in run.releases.items() if made} == {"counts", "centre"}
    assert run.charged_epsilon == run.epsilon and run.sealed  # by itself, once it was asked again
    assert not (home.path / "secrets" / run.run_id).exists()
    excerpts = json.loads((tmp_path / "run" / "ledgers.json").read_bytes())["excerpts"]
    assert set(excerpts) == set(CLIENTS) - {"client-1"}
    sent = [json.loads(line) for line in (tmp_path / "run" / "messages.jsonl").read_text().splitlines()]
    later = [line for line in sent if line["src"] == "client-1" and line["stage"] == "moments-0"]
    (empty,) = later
    assert {f["name"]: f["bytes"] for f in empty["fields"]} == {
        "code": len("withdrawn"),
        "counts": 0,
        "contribution": 0,
    }
    assert command("verify", tmp_path / "run").status == 0


def test_a_client_that_has_left_all_runs_is_not_in_the_next_one(tmp_path: Path):
    ledgers = tmp_path / "ledgers"
    first = client(ledgers, tiny_config())
    withdraw(first.home.path)
    notes: list[str] = []
    train(
        tiny_config(), out=tmp_path / "run", ledger_dir=ledgers, progress=lambda told: notes.append(told.note)
    )
    assert "goes on without client-0: withdrawn" in notes and "2 of 3 clients take part" in notes
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    left = [(row["of"], row["on"], row["value"]) for row in rows if row["metric"] == "left out"]
    assert left == [("client-0", "enrol", "withdrawn")]
    withdraw(ledgers / "digits-3" / "client-1")
    with pytest.raises(UserError, match="client-1: withdrawn"):
        train(tiny_config(), out=tmp_path / "second", ledger_dir=ledgers)
