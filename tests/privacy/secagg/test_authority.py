from __future__ import annotations

import dataclasses
import hashlib
import stat
import threading
from contextlib import nullcontext

import numpy as np
import pytest

from privacy.errors import AggregationError, ContributionError, LedgerError, LedgerRollback
from privacy.heads import Head
from privacy.identity import SIGNATURE_BYTES, SigningKey
from privacy.secagg import authority as authority_module
from privacy.secagg.aggregation import sum_contributions, sum_digest
from privacy.secagg.authority import KeyAuthority
from privacy.secagg.ciphertexts import encrypt_slots, load_context
from privacy.secagg.contribution import open_contribution, seal_contribution
from privacy.secagg.parameters import CkksParameters
from privacy.secagg.results import terms_digest

from .conftest import BOUND, LENGTH, SMALL


def contribute(federation, vectors, clients, round_id="round-0"):
    return [federation.contribute(f"client-{n}", vectors[f"client-{n}"], round_id) for n in clients]


def sealed(federation, client, ciphertexts, round_id="round-0"):
    return seal_contribution(federation.header(client, round_id), ciphertexts, federation.keys[client])


def restarted(federation):
    return KeyAuthority(federation.home / "authority", SigningKey.load(federation.home / "authority.key"))


# Opening a run


def test_opening_again_gives_the_same_key_even_after_a_restart(federation):
    assert federation.authority.open_run(**federation.terms) == federation.info
    assert restarted(federation).open_run(**federation.terms) == federation.info
    other = federation.authority.open_run(**{**federation.terms, "run_id": "run-2"})
    assert other.key_id != federation.info.key_id


@pytest.mark.parametrize(
    "change",
    [
        {"min_contributors": 2},
        {"rounds": {"round-0": LENGTH + 1}},
        {"params": CkksParameters()},
        {"agreement": "b1" * 32},
        {"roster": {"a": bytes(32), "b": bytes([1]) * 32, "c": bytes([2]) * 32}},
    ],
)
def test_a_run_keeps_its_terms(federation, change):
    with pytest.raises(AggregationError, match="other terms"):
        federation.authority.open_run(**{**federation.terms, **change})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run_id": "../run"}, "run_id"),
        ({"run_id": ""}, "run_id"),
        ({"min_contributors": 1}, "min_contributors"),
        ({"min_contributors": 7}, "min_contributors"),
        ({"min_contributors": True}, "min_contributors"),
        ({"roster": {"a": bytes(32), "b": bytes(32)}, "min_contributors": 2}, "same public key"),
        ({"roster": {"a/b": bytes(32), "b": bytes([1]) * 32}, "min_contributors": 2}, "roster"),
        ({"roster": {"a": bytes(31), "b": bytes(32)}, "min_contributors": 2}, "public key of a"),
        ({"rounds": {}}, "rounds"),
        ({"rounds": {"r": 0}}, "length"),
        ({"rounds": {"../r": 5}}, "rounds"),
        ({"agreement": "another plan"}, "agreement"),
    ],
)
def test_terms_out_of_range_are_refused_by_name(federation, change, field):
    with pytest.raises(AggregationError, match=field):
        federation.authority.open_run(**{**federation.terms, "run_id": "run-9", **change})


def test_clients_notice_a_public_key_of_someone_else(federation, tmp_path):
    info, public = federation.info, federation.authority.public
    info.check(public)
    stranger = SigningKey.create(tmp_path / "stranger.key")
    for changed, key in (
        (info, stranger.public),
        (dataclasses.replace(info, run_id="run-2"), public),
        (dataclasses.replace(info, terms="0" * 64), public),
        (dataclasses.replace(info, params=CkksParameters()), public),
        (dataclasses.replace(info, public_context=info.public_context[:-1] + b"x"), public),
    ):
        with pytest.raises(AggregationError, match="not signed by the key authority"):
            changed.check(key)


@pytest.mark.parametrize(
    "told",
    [
        {"min_contributors": 4},
        {"rounds": {"round-0": LENGTH}},
        {"agreement": "b1" * 32},
        {"roster": {"client-0": bytes(32), "client-1": bytes([1]) * 32}},
    ],
)
def test_a_client_that_was_told_other_terms_does_not_take_the_key(federation, told):
    names = ("roster", "min_contributors", "rounds", "agreement")
    terms = {name: federation.terms[name] for name in names}
    dataclasses.replace(federation.info, terms=terms_digest(**terms)).check(federation.authority.public)
    own = dataclasses.replace(federation.info, terms=terms_digest(**{**terms, **told}))
    with pytest.raises(AggregationError, match="on these terms"):
        own.check(federation.authority.public)


# Decrypting


def test_server_and_authority_find_the_same_sum(federation, vectors):
    batch = contribute(federation, vectors, range(6))
    result = federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    np.testing.assert_array_equal(result.values, sum(vectors.values()))
    assert result.values.dtype == np.int64 and result.rejected == {}
    opened = [open_contribution(data, federation.expected(), federation.roster) for data in batch]
    assert sum_digest(opened, sum_contributions(SMALL, opened)) == result.sum_digest
    result.check(federation.authority.public)
    changed = dataclasses.replace(result, values=result.values + 1)
    with pytest.raises(AggregationError, match="not signed"):
        changed.check(federation.authority.public)


def test_a_retry_gets_the_stored_sum_also_after_restart_and_closing(federation, vectors):
    batch = contribute(federation, vectors, range(4))
    first = federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    federation.authority.close_run("run-1")
    for again in (
        federation.authority.decrypt("run-1", "round-0", batch, BOUND),
        restarted(federation).decrypt("run-1", "round-0", batch[::-1], BOUND),
    ):
        np.testing.assert_array_equal(again.values, first.values)
        assert (again.signature, again.sum_digest) == (first.signature, first.sum_digest)


def test_another_set_or_bound_for_a_round_is_refused(federation, vectors):
    batch = contribute(federation, vectors, range(4))
    federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    fresh = contribute(federation, vectors, range(4))
    for other, bound in ((batch[:3], BOUND), (fresh, BOUND), (batch, BOUND + 1)):
        with pytest.raises(AggregationError, match="round-0 .*another set"):
            federation.authority.decrypt("run-1", "round-0", other, bound)


def test_the_set_is_stored_before_it_is_decrypted(federation, vectors, monkeypatch):
    batch = contribute(federation, vectors, range(4))

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(authority_module, "decrypt_integers", power_cut)
        with pytest.raises(KeyboardInterrupt):
            federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    with pytest.raises(AggregationError, match="another set"):
        restarted(federation).decrypt("run-1", "round-0", batch[:3], BOUND)
    result = restarted(federation).decrypt("run-1", "round-0", batch, BOUND)
    np.testing.assert_array_equal(result.values, sum(vectors[f"client-{n}"] for n in range(4)))


def test_of_two_sets_at_once_only_one_is_decrypted(federation, vectors):
    batch = contribute(federation, vectors, range(6))
    outcomes = []

    def ask(part):
        try:
            outcomes.append(restarted(federation).decrypt("run-1", "round-0", part, BOUND).contributors)
        except AggregationError as error:
            outcomes.append(str(error))

    threads = [
        threading.Thread(target=ask, args=(part,)) for part in (batch[:3], batch[3:], batch[1:4], batch)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
    assert sum("another set" in outcome for outcome in outcomes if isinstance(outcome, str)) == 3


def files(federation):
    return [path for path in (federation.home / "authority" / "received").rglob("*") if path.is_file()]


def test_contributions_that_come_in_parts_give_the_same_sum(federation, vectors):
    batch = contribute(federation, vectors, range(6))
    names = []
    for part in (batch[:2], batch[2:3], batch[2:]):  # one of them twice
        names += restarted(federation).receive("run-1", "round-0", part)
    assert names.pop(2) == names[2] and len(files(federation)) == 6
    kept = federation.authority.received("run-1", "round-0", names)
    assert list(kept) == batch and list(kept[1:3]) == batch[1:3]
    result = federation.authority.decrypt("run-1", "round-0", kept, BOUND)
    np.testing.assert_array_equal(result.values, sum(vectors.values()))
    assert not files(federation)
    with pytest.raises(AggregationError, match="6 of 6 contributions .* never arrived"):
        federation.authority.received("run-1", "round-0", names)


def test_only_valid_contributions_of_an_open_run_are_set_aside(federation, vectors):
    receive = federation.authority.receive
    good = contribute(federation, vectors, range(2))
    with pytest.raises(ContributionError, match="bad-signature"):
        receive("run-1", "round-0", [good[0], good[1][:-SIGNATURE_BYTES] + bytes(SIGNATURE_BYTES)])
    assert len(files(federation)) == 1
    for run_id, round_id in (("run-9", "round-0"), ("run-1", "round-99")):
        for call in (receive, federation.authority.received):
            with pytest.raises(AggregationError, match="run-9|round-99"):
                call(run_id, round_id, good)
    federation.authority.close_run("run-1")
    assert not files(federation)
    with pytest.raises(AggregationError, match="closed"):
        receive("run-1", "round-0", good)


def test_what_is_set_aside_has_a_limit_and_belongs_to_one_round(federation, vectors):
    receive = federation.authority.receive
    varied = [f for _ in range(12) for f in contribute(federation, vectors, [3])]
    receive("run-1", "round-0", varied)
    receive("run-1", "round-0", varied[:1])  # what is there already is no more
    assert len(files(federation)) == 12
    with pytest.raises(AggregationError, match="more than 12 contributions of 6 clients"):
        receive("run-1", "round-0", contribute(federation, vectors, [0]))
    assert not files(federation)  # so that the round can begin anew
    receive("run-1", "round-0", varied[:2])
    receive("run-1", "round-1", contribute(federation, vectors, [0], "round-1"))
    assert [path.parent.name for path in files(federation)] == ["round-1"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_contribution_lost_on_the_authoritys_disk_decides_nothing(federation, vectors, damage):
    """Without this the sum of the others would be decrypted, and the round could never be finished."""
    batch = contribute(federation, vectors, range(6))
    names = federation.authority.receive("run-1", "round-0", batch)
    kept = federation.authority.received("run-1", "round-0", names)
    damage(federation.home / "authority" / "received" / "run-1" / "round-0" / names[2])
    with pytest.raises(AggregationError, match="must be sent again"):
        federation.authority.decrypt("run-1", "round-0", kept, BOUND)
    federation.authority.receive("run-1", "round-0", batch)
    assert len(federation.authority.decrypt("run-1", "round-0", kept, BOUND).contributors) == 6


def test_a_contribution_is_named_once_and_by_nothing_but_its_digest(federation, vectors):
    (name,) = federation.authority.receive("run-1", "round-0", contribute(federation, vectors, [0]))
    with pytest.raises(AggregationError, match="named twice"):
        federation.authority.received("run-1", "round-0", [name] * 3)
    for other in ("../round-0/" + name, name.upper(), "", "."):
        with pytest.raises(AggregationError, match="never arrived"):
            federation.authority.received("run-1", "round-0", [name, other])


def test_a_sum_or_a_repeated_contribution_is_never_decrypted(federation, vectors):
    batch = contribute(federation, vectors, range(3))
    opened = [open_contribution(data, federation.expected(), federation.roster) for data in batch]
    total = sum_contributions(SMALL, opened)
    made_up = seal_contribution(
        federation.header("client-0"), total, SigningKey.create(federation.home / "x")
    )
    for attempt in ([*total], [made_up] * 3, [batch[0]] * 3, [batch[0], batch[0], batch[1]]):
        with pytest.raises(AggregationError, match="must be at least 3"):
            federation.authority.decrypt("run-1", "round-0", attempt, BOUND)


@pytest.mark.parametrize(
    ("run_id", "round_id", "bound", "named"),
    [
        ("run-7", "round-0", BOUND, "run-7"),
        ("../run-1", "round-0", BOUND, "run_id"),
        ("run-1", "round-99", BOUND, "round-99"),
        ("run-1", "../../x", BOUND, "round_id"),
        ("run-1", "round-0", 0, "magnitude bound"),
        ("run-1", "round-0", 2**40, "magnitude bound"),
    ],
)
def test_impossible_requests_are_refused_by_name(federation, vectors, run_id, round_id, bound, named):
    batch = contribute(federation, vectors, range(3))
    with pytest.raises(AggregationError, match=named):
        federation.authority.decrypt(run_id, round_id, batch, bound)


# Values inside valid ciphertexts


def hostile_ciphertext(federation, kind):
    """A well-formed ciphertext that holds no vector of honest integers."""
    import tenseal

    context = load_context(federation.info.public_context, SMALL)
    if kind == "huge":
        return encrypt_slots(context, SMALL, [2.0**25])
    if kind == "not whole":
        return encrypt_slots(context, SMALL, [0.4])
    if kind == "beyond the vector":
        return encrypt_slots(context, SMALL, [0.0] * LENGTH + [1.0])
    if kind == "other scale":
        vector = tenseal._ts_cpp.CKKSVector(context.data, [1e4, -7e3, 3.3] * 600, 2.0**38)
        count = SMALL.ciphertext_bytes // 8
        return np.fromiter(map(vector.ciphertext()[0].__getitem__, range(count)), "<u8", count).tobytes()
    return np.random.default_rng(3).integers(0, 2**53, SMALL.ciphertext_bytes // 8).astype("<u8").tobytes()


@pytest.mark.parametrize("kind", ["huge", "not whole", "beyond the vector", "other scale", "random residues"])
def test_an_impossible_value_aborts_its_round_by_name_and_for_good(federation, vectors, kind):
    hostile = sealed(federation, "client-5", [hostile_ciphertext(federation, kind)])
    honest = contribute(federation, vectors, range(4))
    for _ in range(2):
        with pytest.raises(AggregationError, match="round round-0 of run run-1 is aborted: a decrypted slot"):
            federation.authority.decrypt("run-1", "round-0", [*honest, hostile], BOUND)
    with pytest.raises(AggregationError, match="another set"):
        federation.authority.decrypt("run-1", "round-0", honest, BOUND)
    kept = contribute(federation, vectors, range(4), "round-1")
    result = federation.authority.decrypt("run-1", "round-1", kept, BOUND)
    np.testing.assert_array_equal(result.values, sum(vectors[f"client-{n}"] for n in range(4)))


def test_slots_that_decode_to_nan_abort_the_round_by_name(federation, vectors, monkeypatch):
    monkeypatch.setattr("privacy.secagg.packing.decrypt_slots", lambda *_: np.full(SMALL.slots, float("nan")))
    with pytest.raises(AggregationError, match="round-0 of run run-1 is aborted: .*not a finite number"):
        federation.authority.decrypt("run-1", "round-0", contribute(federation, vectors, range(3)), BOUND)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_the_library_itself_encrypts_nothing_that_is_not_finite(federation, value):
    context = load_context(federation.info.public_context, SMALL)
    with pytest.raises((ValueError, RuntimeError)):
        encrypt_slots(context, SMALL, [value])


# The secret key


def test_the_secret_key_is_in_one_private_file_and_in_nothing_public(federation, vectors, caplog):
    folder = federation.home / "authority"
    secret = (folder / "keys" / "run-1" / "secret.ctx").read_bytes()
    public = federation.info.public_context
    batch = contribute(federation, vectors, range(3))
    result = federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    only_secret = secret[len(public) :]
    assert len(only_secret) > 50_000
    pieces = [only_secret[at : at + 16] for at in range(200, len(only_secret) - 16, 997)]
    described = repr((federation.authority, federation.info, result)).encode()
    for output in (public, *batch, described, result.values.tobytes(), caplog.text.encode()):
        assert not any(piece in output for piece in pieces)
    holders = [
        path
        for path in federation.home.rglob("*")
        if path.is_file() and any(piece in path.read_bytes() for piece in pieces)
    ]
    assert holders == [folder / "keys" / "run-1" / "secret.ctx"]
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_closing_destroys_the_secret_key_and_ends_the_run(federation, vectors):
    federation.authority.close_run("run-1")
    federation.authority.close_run("run-1")
    assert not (federation.home / "authority" / "keys" / "run-1" / "secret.ctx").exists()
    with pytest.raises(AggregationError, match="closed"):
        federation.authority.decrypt("run-1", "round-0", contribute(federation, vectors, range(3)), BOUND)
    with pytest.raises(AggregationError, match="closed"):
        restarted(federation).open_run(**federation.terms)
    with pytest.raises(AggregationError, match="not open"):
        federation.authority.close_run("run-5")


@pytest.mark.parametrize("name", ["run.json", "secret.ctx", "public.ctx"])
def test_damaged_files_are_named_and_decide_nothing(federation, vectors, name):
    path = federation.home / "authority" / "keys" / "run-1" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    batch = contribute(federation, vectors, range(3))
    if name != "public.ctx":
        with pytest.raises(AggregationError, match="damaged"):
            federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    with nullcontext() if name == "secret.ctx" else pytest.raises(AggregationError):
        federation.authority.open_run(**federation.terms)
    path.write_bytes(whole)
    assert federation.authority.decrypt("run-1", "round-0", batch, BOUND).contributors


def test_a_damaged_stored_sum_is_not_returned(federation, vectors):
    batch = contribute(federation, vectors, range(3))
    federation.authority.decrypt("run-1", "round-0", batch, BOUND)
    path = federation.home / "authority" / "sums" / "run-1" / "round-0" / "values.bin"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(AggregationError, match="damaged"):
        federation.authority.decrypt("run-1", "round-0", batch, BOUND)


# Anchors of ledgers


def head(key, sequence, content=b""):
    digest = hashlib.sha256(content + bytes([sequence])).hexdigest()
    return Head(sequence, digest, key.sign(Head.message(sequence, digest)))


def test_newer_heads_are_confirmed_and_older_ones_refused(federation):
    key = federation.keys["client-0"]
    for sequence in (3, 4, 4, 9):
        anchor = restarted(federation).countersign("client-0", key.public, head(key, sequence))
        assert (anchor.sequence, anchor.authority) == (sequence, federation.authority.public)
        assert anchor.is_authentic
    for bad in (head(key, 8), head(key, 0), head(key, 9, b"another history")):
        for name in ("client-0", "renamed"):
            with pytest.raises(LedgerRollback, match=name):
                restarted(federation).countersign(name, key.public, bad)
    other = federation.keys["client-1"]
    assert federation.authority.countersign("client-1", other.public, head(other, 1)).sequence == 1


def test_a_head_must_be_signed_by_its_owner(federation):
    key, other = federation.keys["client-0"], federation.keys["client-1"]
    with pytest.raises(LedgerError, match="client-0"):
        federation.authority.countersign("client-0", key.public, head(other, 5))
    assert federation.authority.countersign("client-0", key.public, head(key, 1)).sequence == 1
