"""The key authority dies at everything it writes and at every message: no round is decrypted for two sets.

Its process keeps nothing, so what is started again is what its home holds. Real ones are killed in
`deployment/test_cluster.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.server import contributions
from privacy.errors import PrivacyError
from privacy.secagg import vault
from privacy.secagg.authority import KeyAuthority

from .faults import Exchange, Fault, How, Killed, Trial
from .test_faults_at_every_stage import AUTHORITY_EXCHANGES, CENTRE, LOST

Begin = Callable[..., Trial]
WRITES = (
    *4 * ("anchors.json",),
    "secret.ctx",
    "public.ctx",
    "run.json",
    "centre-0/set.json",
    "centre-0/values.bin",
    "centre-0/outcome.json",
    "moments-0/set.json",
    "moments-0/values.bin",
    "moments-0/outcome.json",
    *4 * ("anchors.json",),
    "closed",
)
"""What the authority writes in a run, in order."""
PLACES = [place for place, name in enumerate(WRITES) if place == 0 or name != WRITES[place - 1]]
BEFORE, DURING, AFTER = (f"centre-0/{name}" for name in ("set.json", "values.bin", "outcome.json"))
PATIENT = 30.0


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[str, ...]]]:
    """Round -> the sets of contributions that were added and decrypted for it."""
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    real = KeyAuthority._decide

    def watch(self: KeyAuthority, expected: Any, accepted: Any, *rest: Any) -> None:
        found[expected.round_id].add(tuple(item.digest for item in accepted))
        real(self, expected, accepted, *rest)

    monkeypatch.setattr(KeyAuthority, "_decide", watch)
    return found


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    """What the authority writes in this test."""
    return Writes(monkeypatch)


class Writes:
    """The authority's durable writes, in order; it is killed before the one whose place is `die_at`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.die_at: int | None = None
        self._real = vault.write_durably
        patch.setattr(vault, "write_durably", self._write)

    def _write(self, path: Path, data: bytes, **options: Any) -> None:
        if len(self.done) == self.die_at:
            self.die_at = None
            raise Killed
        self._real(path, data, **options)
        self.done.append(f"{path.parent.name}/{path.name}" if path.parent.name in ROUNDS else path.name)


ROUNDS = ("centre-0", "moments-0")


def ended(trial: Trial, decided: dict[str, set[tuple[str, ...]]]) -> None:
    """The run is whole, nobody was left out, and each round was decrypted for one set of all clients."""
    trial.check_end()
    assert trial.left_out() == set() and trial.excerpts() == set(trial.config.client_ids)
    assert trial.sums() == dict.fromkeys(ROUNDS, list(trial.config.client_ids))
    assert {round_id: len(sets) for round_id, sets in decided.items()} == dict.fromkeys(ROUNDS, 1)


def stopped(trial: Trial, *faults: Fault) -> None:
    """The run ends in one line that names the authority."""
    with pytest.raises(PrivacyError, match="key authority") as caught:
        trial.attempt(*faults)
    assert "\n" not in str(caught.value)
    trial.check_moment()


def test_it_writes_what_is_killed_here(begun: Begin, writes: Writes, decided):
    """Whatever it comes to write besides must be added to `WRITES`."""
    trial = begun("local", privacy__epsilon="inf")
    trial.attempt()
    ended(trial, decided)
    assert tuple(writes.done) == WRITES


def killed(begun: Begin, writes: Writes, decided: Any, place: int, *, waited_for: bool) -> None:
    trial = begun("local", privacy__epsilon="inf")
    writes.die_at = place
    if waited_for:
        trial.attempt(patience=PATIENT)
    else:
        stopped(trial)
        trial.attempt()
    assert writes.die_at is None
    ended(trial, decided)


@pytest.mark.parametrize("place", [WRITES.index(DURING), len(WRITES) - 1], ids=["sum", "close"])
def test_killed_before_a_sum_is_kept_and_before_the_key_is_destroyed(
    begun: Begin, writes: Writes, decided, place: int
):
    killed(begun, writes, decided, place, waited_for=False)


@pytest.mark.slow
@pytest.mark.parametrize("waited_for", [True, False], ids=["waited-for", "resumed"])
@pytest.mark.parametrize("place", PLACES, ids=[f"{place}-{WRITES[place]}" for place in PLACES])
def test_killed_before_each_write(begun: Begin, writes: Writes, decided, place: int, waited_for: bool):
    killed(begun, writes, decided, place, waited_for=waited_for)


@pytest.mark.slow
@pytest.mark.parametrize("waited_for", [True, False], ids=["waited-for", "resumed"])
@pytest.mark.parametrize("how", ["restarts", "late"])
@pytest.mark.parametrize("at", AUTHORITY_EXCHANGES, ids=str)
def test_away_or_late_at_each_message(
    begun: Begin,
    decided,
    monkeypatch: pytest.MonkeyPatch,
    at: Exchange,
    how: How,
    waited_for: bool,
):
    for limit in ("PART_BYTES", "MOST_BYTES"):
        monkeypatch.setattr(contributions, limit, 1)
    trial = begun("local", privacy__epsilon="inf")
    if waited_for:
        trial.attempt(Fault("authority", how, at), patience=PATIENT)
        assert any("waits for the key authority: silent" in note for note in trial.notes)
    else:
        stopped(trial, Fault("authority", how, at))
        trial.attempt()
    ended(trial, decided)


@pytest.mark.parametrize(
    "write",
    [pytest.param(BEFORE, marks=pytest.mark.slow), DURING, pytest.param(AFTER, marks=pytest.mark.slow)],
)
def test_a_server_that_has_forgotten_its_set_gets_no_other(begun: Begin, writes: Writes, decided, write: str):
    """Killed before it promised, after, and after it decrypted; then the server asks for the sum of fewer."""
    trial = begun("distributed", privacy__epsilon="inf")
    writes.die_at = WRITES.index(write)
    stopped(trial)
    promised = trial.sums()
    (trial.run / "checkpoints" / "centre-0-set.stage").unlink()
    if write == BEFORE:  # nothing was promised: enough others are a set as good
        trial.attempt(Fault(LOST, "dies", CENTRE))
        trial.check_end()
        assert LOST not in trial.sums()["centre-0"] and len(decided["centre-0"]) == 1
        return
    assert promised == {"centre-0": list(trial.config.client_ids)}
    stopped(trial, Fault(LOST, "dies", CENTRE))
    assert trial.sums() == promised and len(decided["centre-0"]) <= 1
    (trial.run / "checkpoints" / "centre-0-set.stage").unlink()
    trial.attempt()
    ended(trial, decided)
