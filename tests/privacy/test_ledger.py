from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import ledger as ledgers
from privacy.accounting import GaussianEvent, SubsampledGaussianEvent
from privacy.errors import (
    BudgetError,
    LedgerDamaged,
    LedgerError,
    LedgerRollback,
    PrivacyError,
    ReleaseConflict,
)
from privacy.heads import Anchor, Head
from privacy.identity import SigningKey
from privacy.ledger import Ledger, verify, verify_excerpt

from .ledger_cases import POPULATION, enrolled, event, make_plan, make_policy, open_ledger

DIGEST = "ab" * 32


def charge(ledger: Ledger, run_id: str = "run-1", name: str = "prototypes", round: int = 0) -> None:
    ledger.record(run_id, name, round, DIGEST, event(name), DIGEST)


def make_history(home: Path) -> Path:
    with enrolled(home) as ledger:
        charge(ledger)
        ledger.record_output("run-1", "prototypes", 0, DIGEST)
        charge(ledger, round=1)
        charge(ledger, name="counts")
        ledger.seal_run("run-1")
    return home / "ledger.jsonl"


def test_a_new_ledger_is_empty_and_private(tmp_path):
    home = tmp_path / "patients" / "client-0"
    with open_ledger(home) as ledger:
        assert ledger.runs() == ()
        assert (ledger.lifetime_epsilon(), ledger.lifetime_delta()) == (0.0, 0.0)
        assert ledger.head.sequence == 0 and ledger.head.is_signed_by(ledger.public)
        assert ledger.healed is None and ledger.anchor is None
    assert (home / "ledger.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_was_recorded_is_there_after_opening_again(tmp_path):
    make_history(tmp_path)
    plan = make_plan()
    with open_ledger(tmp_path) as ledger:
        (run,) = ledger.runs()
        assert run.run_id == "run-1" and run.config_hash == "config" and run.sealed
        assert run.releases == {"prototypes": 2, "counts": 1}
        assert run.events == (event(), event(), event("counts"))
        assert (run.epsilon, run.delta) == (plan.epsilon, plan.delta)
        assert ledger.lifetime_epsilon() == plan.epsilon
        assert ledger.lifetime_delta() == plan.delta
        assert ledger.release_record("run-1", "prototypes", 0).output == DIGEST
        assert ledger.release_record("run-1", "prototypes", 1).output is None
        assert ledger.release_record("run-1", "prototypes", 2) is None


def test_a_run_costs_nothing_before_its_first_release_and_all_of_it_after(tmp_path):
    with enrolled(tmp_path) as ledger:
        assert ledger.lifetime_epsilon() == 0.0
        charge(ledger)
        assert ledger.lifetime_epsilon() == make_plan().epsilon
        charge(ledger, round=1)
        assert ledger.lifetime_epsilon() == make_plan().epsilon


def test_enrolling_again_is_idempotent_and_only_that(tmp_path):
    with enrolled(tmp_path) as ledger:
        head = ledger.head
        ledger.enrol("run-1", make_plan(), "config", make_policy())
        assert ledger.head == head
        with pytest.raises(LedgerError, match="another plan or configuration"):
            ledger.enrol("run-1", make_plan(noise=5.0), "config", make_policy())
        with pytest.raises(LedgerError, match="another plan or configuration"):
            ledger.enrol("run-1", make_plan(), "other", make_policy())
        with pytest.raises(LedgerError, match="terms of trust"):
            ledger.enrol(
                "run-1", make_plan(), "config", make_policy(allow_insecure_noise=True), insecure_noise=True
            )
        assert ledger.head == head


def test_caps_that_were_changed_hold_from_then_on(tmp_path):
    plan = make_plan()
    with enrolled(tmp_path) as ledger:
        ledger.enrol("run-2", plan, "config", make_policy())
        charge(ledger)
        tight = make_policy(max_epsilon_lifetime=plan.epsilon * 1.5)
        with pytest.raises(BudgetError, match="budget already spent"):
            ledger.enrol("run-2", plan, "config", tight)
        ledger.enrol("run-1", plan, "config", tight)
        charge(ledger, round=1)


def test_the_policy_is_asked(tmp_path):
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(BudgetError, match="cap of"):
            ledger.enrol("run-1", make_plan(), "config", make_policy(max_epsilon_per_run=0.1))
        with pytest.raises(BudgetError, match="counts"):
            policy = make_policy(allowed_releases=frozenset({"prototypes"}))
            ledger.enrol("run-1", make_plan(), "config", policy)
        with pytest.raises(LedgerError, match="population"):
            ledger.enrol("run-1", make_plan(), "config", make_policy(population="staff"))
        with pytest.raises(BudgetError, match="run id"):
            ledger.enrol("../run", make_plan(), "config", make_policy())
        assert ledger.head.sequence == 0


def test_the_lifetime_budget_is_refused_at_enrolment_and_at_the_first_release(tmp_path):
    plan = make_plan()
    policy = make_policy(max_epsilon_lifetime=2.5 * plan.epsilon)
    with open_ledger(tmp_path) as ledger:
        for run in ("a", "b", "c"):  # none has spent anything: all three may begin
            ledger.enrol(run, plan, "config", policy)
        charge(ledger, "a")
        charge(ledger, "b")
        with pytest.raises(BudgetError, match="budget already spent: population patients"):
            charge(ledger, "c")
        with pytest.raises(BudgetError, match="budget already spent"):
            ledger.enrol("d", plan, "config", policy)
        charge(ledger, "a", round=1)  # paid for already
        assert ledger.lifetime_epsilon() == pytest.approx(2 * plan.epsilon)


def test_deltas_add_up_too(tmp_path):
    plan = make_plan()
    policy = make_policy(max_delta_lifetime=1.5 * plan.delta)
    with open_ledger(tmp_path) as ledger:
        ledger.enrol("a", plan, "config", policy)
        charge(ledger, "a")
        with pytest.raises(BudgetError, match="used delta"):
            ledger.enrol("b", plan, "config", policy)


def test_noise_from_a_seed_costs_everything(tmp_path):
    policy = make_policy(allow_insecure_noise=True)
    with open_ledger(tmp_path) as ledger:
        ledger.enrol("run-1", make_plan(), "config", policy, insecure_noise=True)
        charge(ledger)
        assert math.isinf(ledger.lifetime_epsilon())
        assert ledger.runs()[0].epsilon == make_plan().epsilon
        with pytest.raises(BudgetError, match="budget already spent"):
            capped = make_policy(max_epsilon_lifetime=100.0)
            ledger.enrol("run-2", make_plan(), "config", capped)


@given(st.lists(st.integers(0, 5), max_size=12), st.floats(0.5, 4.5))
def test_spending_never_exceeds_the_cap(tmp_path_factory, charges, cap_in_runs):
    plan = make_plan()
    cap = cap_in_runs * plan.epsilon
    policy = make_policy(max_epsilon_lifetime=cap)
    home = tmp_path_factory.mktemp("ledger")
    spent = set()
    with open_ledger(home) as ledger:
        for run in charges:
            try:
                ledger.enrol(f"run-{run}", plan, "config", policy)
                charge(ledger, f"run-{run}", round=sum(ledger.run(f"run-{run}").releases.values()))
                spent.add(run)
            except PrivacyError:
                pass
            assert ledger.lifetime_epsilon() <= cap
        assert ledger.lifetime_epsilon() == pytest.approx(len(spent) * plan.epsilon)
        assert len(spent) == min(len(set(charges)), math.floor(cap_in_runs))
    assert verify(home).lifetime_epsilon == pytest.approx(len(spent) * plan.epsilon)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"release": "weights"}, "is not in the plan"),
        ({"round": 3}, "rounds are 0 to 2"),
        ({"round": -1}, "rounds are 0 to 2"),
        ({"round": True}, "is not planned"),
        ({"event": GaussianEvent(3.9)}, "noise multiplier 3.9"),
        ({"event": GaussianEvent(4.0, 4)}, "more than the 3 draws"),
        ({"event": SubsampledGaussianEvent(4.0, 0.1, 1)}, "not a Gaussian"),
    ],
)
def test_only_planned_releases_are_charged(tmp_path, change, message):
    request = {
        "run_id": "run-1",
        "release": "prototypes",
        "round": 0,
        "inputs_digest": DIGEST,
        "event": event(),
        "secret_commitment": DIGEST,
    }
    with enrolled(tmp_path) as ledger:
        head = ledger.head
        with pytest.raises(BudgetError, match=message):
            ledger.record(**{**request, **change})
        assert ledger.head == head


def test_a_release_is_charged_once(tmp_path):
    with enrolled(tmp_path) as ledger:
        charge(ledger)
        with pytest.raises(ReleaseConflict):
            charge(ledger)
        with pytest.raises(LedgerError, match="not enrolled"):
            charge(ledger, "run-2")
        with pytest.raises(LedgerError, match="was not charged"):
            ledger.record_output("run-1", "counts", 0, DIGEST)


def test_a_sealed_run_makes_no_release(tmp_path):
    with enrolled(tmp_path) as ledger:
        charge(ledger)
        ledger.seal_run("run-1")
        head = ledger.head
        ledger.seal_run("run-1")
        assert ledger.head == head
        with pytest.raises(LedgerError, match="sealed"):
            charge(ledger, round=1)


def test_a_ledger_belongs_to_one_key_population_and_party(tmp_path):
    make_history(tmp_path)
    key = SigningKey.load(tmp_path / "identity.key")
    other = SigningKey.create(tmp_path / "other.key")
    with pytest.raises(LedgerError, match="population"):
        Ledger.open(tmp_path, "staff", key)
    with pytest.raises(LedgerError, match="party"):
        Ledger.open(tmp_path, POPULATION, key, party="client-9")
    with pytest.raises(LedgerError, match="public"):
        Ledger.open(tmp_path, POPULATION, other)
    assert verify(tmp_path, key.public).problems == ()
    assert verify(tmp_path, other.public).problems


def test_one_process_at_a_time(tmp_path):
    program = (
        "import sys; from pathlib import Path; from privacy.ledger import Ledger;"
        "from privacy.identity import SigningKey; home = Path(sys.argv[1]);"
        "Ledger.open(home, 'patients', SigningKey.load(home / 'identity.key'), wait_seconds=0.0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with open_ledger(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode != 0 and "another process is using it" in refused.stderr
        with pytest.raises(LedgerError, match="another process is using it"):
            open_ledger(tmp_path)
        assert verify(tmp_path).problems == ()  # reading needs no lock
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_an_incomplete_last_line_is_cut_off_and_reported(tmp_path):
    path = make_history(tmp_path)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    before = whole[: -len(last)]
    for length in {1, 2, len(last) // 2, len(last) - 2}:
        path.write_bytes(before + last[:length])
        report = verify(tmp_path)
        assert report.problems == () and "incomplete" in report.notes[0]
        with open_ledger(tmp_path) as ledger:
            assert f"{length} bytes" in ledger.healed
            assert not ledger.run("run-1").sealed  # the line that was cut short never counted
            assert ledger.run("run-1").releases == {"prototypes": 2, "counts": 1}
        assert verify(tmp_path).problems == () and path.read_bytes().startswith(before)


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    path = make_history(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with open_ledger(tmp_path) as ledger:
        assert ledger.healed is None and ledger.run("run-1").sealed
    assert path.read_bytes().endswith(b"}\n") and verify(tmp_path).problems == ()


def test_a_first_line_cut_short_begins_anew(tmp_path):
    open_ledger(tmp_path).close()
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:20])
    with open_ledger(tmp_path) as ledger:
        assert ledger.head.sequence == 0 and ledger.healed


def test_a_flipped_bit_in_any_line_is_found(tmp_path):
    path = make_history(tmp_path)
    whole = path.read_bytes()
    start = 0
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        for offset in range(0, len(line), 7):
            damaged = bytearray(whole)
            damaged[start + offset] ^= 1 << (offset % 8)
            path.write_bytes(damaged)
            with pytest.raises(LedgerError) as caught:
                open_ledger(tmp_path)
            assert "line" in str(caught.value) or number == 1
            (problem,) = verify(tmp_path).problems
            assert "line" in problem
        damaged = bytearray(whole)
        damaged[start + len(line) - 1] ^= 1  # the line end
        path.write_bytes(damaged)
        with pytest.raises(LedgerDamaged, match="line"):
            open_ledger(tmp_path)
        start += len(line)
    path.write_bytes(whole)
    open_ledger(tmp_path).close()


def test_lines_removed_doubled_or_moved_are_found(tmp_path):
    path = make_history(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for i in range(len(lines) - 1):
        for changed in (
            lines[:i] + lines[i + 1 :],
            lines[: i + 1] + lines[i:],
            lines[:i] + [lines[i + 1], lines[i]] + lines[i + 2 :],
        ):
            path.write_bytes(b"".join(changed))
            with pytest.raises(LedgerDamaged, match="line"):
                open_ledger(tmp_path)


def test_a_line_by_another_hand_is_found(tmp_path):
    """A chain that is consistent in itself but signed by somebody else."""
    make_history(tmp_path / "a" / "client-0")
    make_history(tmp_path / "b" / "client-0")
    forged = tmp_path / "b" / "client-0" / "ledger.jsonl"
    owner = SigningKey.load(tmp_path / "a" / "client-0" / "identity.key")
    assert "public key" in verify(forged, owner.public).problems[0]


def anchor_of(ledger: Ledger, authority: SigningKey) -> Anchor:
    return Anchor.create(authority, ledger.party, ledger.public, ledger.head)


def test_a_rolled_back_ledger_is_refused(tmp_path):
    home, path = tmp_path / "client-0", tmp_path / "client-0" / "ledger.jsonl"
    authority = SigningKey.create(tmp_path / "authority.key")
    with enrolled(home) as ledger:
        old = path.read_bytes()
        charge(ledger)
        ledger.store_anchor(anchor_of(ledger, authority), authority.public)
        anchored = path.read_bytes()
    path.write_bytes(old)
    with pytest.raises(LedgerRollback, match="the authority saw 2"):
        open_ledger(home)
    assert "rolled back" in verify(home).problems[0]
    with pytest.raises(LedgerRollback):  # a fresh start is a rollback, too
        path.write_bytes(b"")
        open_ledger(home)
    path.write_bytes(anchored)
    with open_ledger(home) as ledger:
        charge(ledger, round=1)  # going on is none
        assert ledger.anchor.sequence == 2
    assert verify(home).problems == ()


def test_another_history_of_the_same_length_is_refused(tmp_path):
    home, path = tmp_path / "client-0", tmp_path / "client-0" / "ledger.jsonl"
    authority = SigningKey.create(tmp_path / "authority.key")
    with enrolled(home) as ledger:
        old = path.read_bytes()
        charge(ledger)
        anchor = anchor_of(ledger, authority)
    path.write_bytes(old)
    with open_ledger(home) as ledger:
        charge(ledger, name="counts")
        with pytest.raises(LedgerRollback, match="is not what the authority saw"):
            ledger.check_anchor(anchor)


def test_an_anchor_kept_elsewhere_finds_the_rollback_of_a_whole_home(tmp_path):
    authority = SigningKey.create(tmp_path / "authority.key")
    home, path = tmp_path / "client-0", tmp_path / "client-0" / "ledger.jsonl"
    with enrolled(home) as ledger:
        old = path.read_bytes()
        charge(ledger)
        anchor = anchor_of(ledger, authority)
    path.write_bytes(old)
    with open_ledger(home) as ledger, pytest.raises(LedgerRollback):
        ledger.check_anchor(anchor, authority.public)


def test_foreign_anchors_are_refused(tmp_path):
    authority, stranger = SigningKey.create(tmp_path / "1"), SigningKey.create(tmp_path / "2")
    with enrolled(tmp_path / "client-0") as ledger, enrolled(tmp_path / "client-1") as other:
        anchor = anchor_of(ledger, authority)
        with pytest.raises(LedgerError, match="not signed by"):
            ledger.store_anchor(anchor_of(ledger, stranger), authority.public)
        with pytest.raises(LedgerError, match="not signed by"):
            ledger.store_anchor(dataclasses.replace(anchor, sequence=0), authority.public)
        with pytest.raises(LedgerError, match="is of client-1"):
            ledger.store_anchor(anchor_of(other, authority), authority.public)
        with pytest.raises(LedgerError, match="signature"):
            Anchor.create(authority, "client-0", stranger.public, ledger.head)
        assert ledger.anchor is None
        ledger.store_anchor(anchor, authority.public)
        assert ledger.anchor == anchor


def test_an_older_anchor_does_not_replace_a_newer_one(tmp_path):
    authority = SigningKey.create(tmp_path / "key")
    with enrolled(tmp_path / "client-0") as ledger:
        first = anchor_of(ledger, authority)
        charge(ledger)
        second = anchor_of(ledger, authority)
        ledger.store_anchor(second)
        ledger.store_anchor(first)
        assert ledger.anchor == second
    (tmp_path / "client-0" / "anchor.json").write_text("{}")
    with pytest.raises(LedgerDamaged, match="anchor"):
        open_ledger(tmp_path / "client-0")


def test_heads_and_anchors_travel_as_json(tmp_path):
    authority = SigningKey.create(tmp_path / "key")
    with enrolled(tmp_path / "client-0") as ledger:
        anchor = anchor_of(ledger, authority)
        assert Head.from_dict(json.loads(json.dumps(ledger.head.to_dict()))) == ledger.head
        assert Anchor.from_dict(json.loads(json.dumps(anchor.to_dict()))) == anchor
    with pytest.raises(LedgerError, match="sequence"):
        Anchor.from_dict({**anchor.to_dict(), "sequence": -1})
    with pytest.raises(LedgerError, match="digest"):
        Head.from_dict({"sequence": 1, "digest": "xy", "signature": "00" * 64})


def test_an_excerpt_is_signed_and_tells_only_of_its_run(tmp_path):
    with enrolled(tmp_path, "run-1") as ledger:
        ledger.enrol("run-secret", make_plan(), "config", make_policy())
        ledger.record("run-1", "prototypes", 0, "11" * 32, event(), "22" * 32)
        ledger.record_output("run-1", "prototypes", 0, "33" * 32)
        excerpt = json.loads(json.dumps(ledger.excerpt("run-1")))
        public = ledger.public
    assert verify_excerpt(excerpt, public)
    assert not verify_excerpt({**excerpt, "charged_epsilon": 0.1}, public)
    assert not verify_excerpt({**excerpt, "signature": "zz"}, public)
    assert not verify_excerpt({}, public)
    text = json.dumps(excerpt)
    assert "33" * 32 in text and "11" * 32 not in text and "22" * 32 not in text
    assert "run-secret" not in text
    assert excerpt["rollback_detected"] is False


def test_a_full_disk_releases_nothing(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with enrolled(tmp_path) as ledger:
        monkeypatch.setattr("privacy.ledger_file.os.fsync", fail)
        with pytest.raises(LedgerError, match="No space left"):
            charge(ledger)
        monkeypatch.undo()
        with pytest.raises(LedgerError, match="is closed"):
            charge(ledger, round=1)
    with open_ledger(tmp_path) as ledger:  # what may have reached the disk counts: never less than was spent
        assert ledger.run("run-1").releases["prototypes"] == 1


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(LedgerError, match="cannot be read"):
        ledgers.verify(tmp_path / "ledger.jsonl")
    (tmp_path / "ledger.jsonl").touch()
    assert "empty" in verify(tmp_path).problems[0]
