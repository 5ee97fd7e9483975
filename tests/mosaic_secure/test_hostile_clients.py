"""Whatever a client sends costs itself the stage, by name and with a fixed code; the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error

from mosaic_secure.engine import inprocess
from mosaic_secure.engine.inprocess import FIRST_NODE_ID
from mosaic_secure.engine.local import train
from mosaic_secure.errors import UserError
from mosaic_secure.progress import Progress
from mosaic_secure.protocol.codec import encode, from_flower, reply_to
from mosaic_secure.protocol.messages import (
    EnrolReply,
    FineTuneReply,
    LocalTrainingReply,
    PrototypeReply,
    SealReply,
)
from mosaic_secure.runs.artefacts import read_global_model
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.verify import verify
from privacy.canonical import canonical_json
from privacy.heads import Head
from privacy.identity import SigningKey
from privacy.ledger_check import excerpt_message

from . import hostile_app
from .hostile_app import DEEDS, Deed
from .tiny import tiny_config

APP = f"{hostile_app.__name__}:app"
HONEST = 3
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def no_deeds() -> Iterator[None]:
    DEEDS.clear()
    yield
    DEEDS.clear()


def saying(cls: type, change: Callable[[Any], Mapping[str, Any]]) -> Deed:
    """The honest reply with some fields changed."""

    def deed(request: Message, reply: Message) -> Message:
        said = from_flower(cls, reply)
        return reply_to(request, replace(said, **change(said)))

    return deed


def raw(change: Callable[[RecordDict], None]) -> Deed:
    """The honest reply with other Flower records."""

    def deed(request: Message, reply: Message) -> Message:
        content = reply.content
        change(content)
        return Message(content, reply_to=request)

    return deed


def arrays(cls: type, field: str, change: Callable[[Arrays], Arrays]) -> Deed:
    return saying(cls, lambda said: {field: change(getattr(said, field))})


def filled(value: float) -> Callable[[Arrays], Arrays]:
    return lambda found: {name: np.full_like(array, value) for name, array in found.items()}


def one(value: float) -> Callable[[Arrays], Arrays]:
    def change(found: Arrays) -> Arrays:
        changed = {name: array.copy() for name, array in found.items()}
        next(iter(changed.values())).flat[0] = value
        return changed

    return change


def renamed(found: Arrays) -> Arrays:
    return {f"../{name}": array for name, array in found.items()}


def shortened(found: Arrays) -> Arrays:
    return {name: array[..., :-1] for name, array in found.items()}


def typed(dtype: type) -> Callable[[Arrays], Arrays]:
    return lambda found: {name: array.astype(dtype) for name, array in found.items()}


def fewer(found: Arrays) -> Arrays:
    return dict(list(found.items())[1:])


def more(found: Arrays) -> Arrays:
    return {**found, "more": np.zeros(3, np.float32)}


def thousands(found: Arrays) -> Arrays:
    return {**found, **{f"x{index}": np.zeros(0, np.float32) for index in range(4000)}}


def heavy(found: Arrays) -> Arrays:
    return {**found, "ballast": np.zeros(2**20, np.float32)}


def weights_deeds(cls: type, field: str) -> list[tuple[Deed, str]]:
    """Weights that are none, weights of no such model, and weights that no training leads to."""
    return [
        (arrays(cls, field, filled(np.nan)), "malformed"),
        (arrays(cls, field, one(np.inf)), "malformed"),
        (arrays(cls, field, filled(1e30)), "implausible"),
        (arrays(cls, field, one(3e38)), "implausible"),
        (arrays(cls, field, filled(-1e5)), "implausible"),
        (arrays(cls, field, typed(np.float64)), "malformed"),
        (arrays(cls, field, typed(np.int8)), "malformed"),
        (arrays(cls, field, shortened), "malformed"),
        (arrays(cls, field, renamed), "malformed"),
        (arrays(cls, field, fewer), "malformed"),
        (arrays(cls, field, more), "malformed"),
        (arrays(cls, field, lambda _: {}), "malformed"),
        (arrays(cls, field, thousands), "too-large"),
        (arrays(cls, field, heavy), "too-large"),
    ]


def where(holds: Callable[[PrototypeReply], bool], deed: Deed) -> Deed:
    """A deed for some rounds."""
    return lambda request, reply: deed(request, reply) if holds(from_flower(PrototypeReply, reply)) else reply


COUNTS: list[tuple[Deed, str]] = [
    (arrays(PrototypeReply, "counts", filled(np.nan)), "malformed"),
    (arrays(PrototypeReply, "counts", one(-np.inf)), "malformed"),
    (arrays(PrototypeReply, "counts", filled(1e30)), "implausible"),
    (arrays(PrototypeReply, "counts", one(1e5)), "implausible"),
    (arrays(PrototypeReply, "counts", one(-100.0)), "implausible"),
    (arrays(PrototypeReply, "counts", typed(np.float32)), "malformed"),
    (arrays(PrototypeReply, "counts", typed(np.int64)), "malformed"),
    (arrays(PrototypeReply, "counts", shortened), "malformed"),
    (arrays(PrototypeReply, "counts", renamed), "malformed"),
    (arrays(PrototypeReply, "counts", more), "malformed"),
    (arrays(PrototypeReply, "counts", lambda _: {}), "malformed"),
    (arrays(PrototypeReply, "counts", heavy), "too-large"),
    (saying(PrototypeReply, lambda said: {"contribution": said.contribution * 100}), "too-large"),
    (saying(PrototypeReply, lambda said: {"contribution": b""}), "empty"),
    (saying(PrototypeReply, lambda said: {"code": "\x1b[31mlook here"}), "malformed"),
]


COUNTS = [(where(lambda said: bool(said.counts), deed), code) for deed, code in COUNTS]
UNASKED = where(
    lambda said: not said.counts, saying(PrototypeReply, lambda _: {"counts": {"counts": np.ones(10)}})
)


def sides(content: RecordDict) -> None:
    """Many numbers by its shape, and none by its bytes."""
    impossible = Array("float32", (0, 2**30, 2**30, 2**30), "mosaic.raw", b"")
    content["arrays.classifier"] = ArrayRecord({"w": impossible})


def other_style(content: RecordDict) -> None:
    content["arrays.classifier"] = ArrayRecord({"w": Array("float32", (1,), "numpy.ndarray", bytes(4))})


def with_metrics(content: RecordDict) -> None:
    content["metrics"] = MetricRecord({"loss": 1.0})


def without_code(content: RecordDict) -> None:
    content["message"] = ConfigRecord({"schema": content["message"]["schema"]})


def not_for_now(request: Message, reply: Message) -> Message:
    return Message(encode(SealReply(code="ok")), reply_to=request)


def an_error(request: Message, reply: Message) -> Message:
    return Message(Error(7, "what I always wanted to tell you"), reply_to=request)


def in_anothers_name(request: Message, reply: Message) -> Message:
    forged = Message(encode(SealReply(code="ok")), reply_to=request)
    forged.metadata.__dict__["_src_node_id"] = FIRST_NODE_ID  # where client-0 answers
    return forged


FRAMES: list[tuple[Deed, str]] = [
    (raw(sides), "malformed"),
    (raw(other_style), "malformed"),
    (raw(with_metrics), "malformed"),
    (raw(without_code), "malformed"),
    (not_for_now, "malformed"),
    (an_error, "failed"),
    (in_anothers_name, "malformed"),
]


def at_the_end(deed: Deed) -> Deed:
    """A seal also brings the anchor of the enrolment; there all is as it should be."""

    def later(request: Message, reply: Message) -> Message:
        final = from_flower(SealReply, reply).excerpt_json != "{}"
        return deed(request, reply) if final else reply

    return later


def excerpt(change: Callable[[dict[str, Any]], Any]) -> Deed:
    """The honest excerpt, changed after it was signed."""

    def spoilt(said: SealReply) -> Mapping[str, Any]:
        changed = change(json.loads(said.excerpt_json))
        return {"excerpt_json": json.dumps(changed, sort_keys=True, separators=(",", ":"))}

    return at_the_end(saying(SealReply, spoilt))


def text(value: str) -> Deed:
    return at_the_end(saying(SealReply, lambda _: {"excerpt_json": value}))


SEALS: list[tuple[Deed, str]] = [
    (text("no JSON"), "malformed"),
    (text("{}"), "malformed"),
    (text("[" * 60_000), "malformed"),
    (text('{"plan":NaN}'), "malformed"),
    (text("x" * 1_000_000), "too-large"),
    (excerpt(lambda found: [found]), "malformed"),
    (excerpt(lambda found: {**found, "releases": found["releases"][:1]}), "ledger"),
    (excerpt(lambda found: {**found, "releases": found["releases"] * 3}), "ledger"),
    (excerpt(lambda found: {**found, "plan": {**found["plan"], "epsilon": 0.1}}), "ledger"),
    (at_the_end(saying(SealReply, lambda said: {"ledger_sequence": said.ledger_sequence + 1})), "ledger"),
    (at_the_end(saying(SealReply, lambda said: {"ledger_digest": "0" * 64})), "ledger"),
]
ENROLS: list[tuple[Deed, str]] = [
    (saying(EnrolReply, lambda _: {"accepted": False}), "refused"),
    (saying(EnrolReply, lambda _: {"ledger_digest": "0" * 64}), "ledger"),
    (saying(EnrolReply, lambda _: {"ledger_digest": "z" * 64}), "ledger"),
    (saying(EnrolReply, lambda _: {"ledger_sequence": -1}), "ledger"),
    (saying(EnrolReply, lambda _: {"ledger_digest": "0" * 10**6}), "too-large"),
    (saying(EnrolReply, lambda _: {"code": "a story about my patients"}), "malformed"),
]
BARE: dict[str, Any] = {  # no encrypted rounds
    "prototypes__enabled": False,
    "experts__prototype_expert": False,
    "global_model__architecture": "mlp",
    "privacy__shares": {"prototypes": 0, "counts": 0.1, "classifier": 0.5, "generator": 0.4},
}


def plot(kind: str, stage: str, deeds: list[tuple[Deed, str]]) -> dict[tuple[str, str], str]:
    """Give every deed to a client of its own; what the run is to say of them."""
    wanted = {}
    for place, (deed, code) in enumerate(deeds):
        party = f"client-{HONEST + place}"
        DEEDS[party, kind] = deed
        wanted[stage, party] = code
    return wanted


def ran(place: Path, clients: int, **changes: Any) -> tuple[dict[tuple[str, str], str], list[str]]:
    """(stage, client) -> code of those that were left out, and what was said of progress."""
    told: list[str] = []

    def hear(progress: Progress) -> None:
        told.append(progress.note or "")

    given = {"clients__count": clients, "privacy__epsilon": "inf", "partition__min_records": 2}
    given |= {"privacy__min_contributors": 2, **changes}
    config = tiny_config(**given)
    train(config, out=place / "run", ledger_dir=place / "ledgers", progress=hear, client_app=APP)
    run = RunDirectory.open(place / "run")
    assert verify(place / "run").passed
    if config.method != "local":
        model, _ = read_global_model(run)
        assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["value"] is not None and line["value"] == line["value"]
    return {(line["on"], line["of"]): line["value"] for line in lines if line["metric"] == "left out"}, told


def test_counts_contributions_and_seals_that_are_none_lose_their_senders(tmp_path: Path):
    wanted = plot("prototypes", "centre-0", COUNTS) | plot("seal", "seal", SEALS)
    DEEDS["client-0", "prototypes"] = UNASKED
    wanted["moments-0", "client-0"] = "malformed"
    found, told = ran(tmp_path, HONEST + len(COUNTS))
    assert found == wanted
    assert not any("look here" in line for line in told)
    excerpts = json.loads((tmp_path / "run" / "ledgers.json").read_bytes())["excerpts"]
    bad = {party for stage, party in wanted if stage == "seal"}
    assert excerpts.keys() == {f"client-{i}" for i in range(HONEST + len(COUNTS))} - bad


@pytest.mark.parametrize("field", ["classifier", "generator"])
def test_local_models_that_are_none_lose_their_senders(tmp_path: Path, field: str):
    deeds = weights_deeds(LocalTrainingReply, field) + (FRAMES if field == "classifier" else [])
    wanted = plot("local_training", "local-0", deeds)
    found, told = ran(tmp_path, HONEST + len(deeds), **BARE)
    assert found == wanted
    assert not any("wanted" in line for line in told)
    kept = json.loads((tmp_path / "run" / "classifiers" / "index.json").read_bytes())["members"]
    assert [member["name"] for member in kept] == [f"client-{i}" for i in range(HONEST)]


def test_fine_tuned_weights_that_are_none_lose_their_senders(tmp_path: Path):
    deeds = weights_deeds(FineTuneReply, "weights")
    deeds += [
        (arrays(FineTuneReply, "counts", filled(1e30)), "implausible"),
        (arrays(FineTuneReply, "counts", lambda _: {}), "malformed"),
    ]
    wanted = plot("fine_tune", "fine-tune-0", deeds)
    found, _ = ran(tmp_path, HONEST + len(deeds), method="fedavg", fine_tune__rounds=1)
    assert found == wanted


def test_a_client_that_lies_at_enrolment_takes_no_part(tmp_path: Path):
    wanted = plot("enrol", "enrol", ENROLS)
    found, told = ran(tmp_path, HONEST + len(ENROLS))
    assert found == wanted
    assert not any("patients" in line for line in told)


def stolen(cls: type, fields: tuple[str, ...]) -> tuple[Deed, Deed]:
    """A deed that looks at what its client says, and one that says the same in another client's name."""
    seen: dict[str, Any] = {}

    def look(request: Message, reply: Message) -> Message:
        seen.update({field: getattr(from_flower(cls, reply), field) for field in fields})
        return reply

    tell = saying(cls, lambda _: dict(seen))
    return look, at_the_end(tell) if cls is SealReply else tell


@pytest.mark.parametrize(
    ("cls", "kind", "fields"),
    [
        (EnrolReply, "enrol", ("ledger_sequence", "ledger_digest", "ledger_signature")),
        (SealReply, "seal", ("ledger_sequence", "ledger_digest", "ledger_signature")),
        (SealReply, "seal", ("excerpt_json",)),
        (
            SealReply,
            "seal",
            ("excerpt_json", "ledger_sequence", "ledger_digest", "ledger_signature"),
        ),
    ],
)
def test_the_ledger_of_another_client_is_not_ones_own(tmp_path: Path, cls, kind, fields):
    DEEDS["client-0", kind], DEEDS["client-3", kind] = stolen(cls, fields)
    found, _ = ran(tmp_path, 4)
    assert found == {(kind, "client-3"): "ledger"}


def test_counts_of_a_run_without_encrypted_rounds_come_late_and_are_held_to_the_same(tmp_path: Path):
    deeds = [
        (arrays(LocalTrainingReply, "counts", change), code)
        for change, code in (
            (filled(np.nan), "malformed"),
            (filled(1e30), "implausible"),
            (one(-1e4), "implausible"),
            (lambda _: {}, "malformed"),
            (more, "malformed"),
        )
    ]
    wanted = plot("local_training", "local-0", deeds)
    found, _ = ran(tmp_path, HONEST + len(deeds), **BARE)
    assert found == wanted


def test_a_ledger_under_a_key_of_ones_own_making_is_not_the_ledger_of_the_roster(tmp_path: Path):
    stranger = SigningKey.create(tmp_path / "stranger.key")

    def forged(said: SealReply) -> Mapping[str, Any]:
        found = json.loads(said.excerpt_json)
        found["public"] = stranger.public.hex()
        message = Head.message(said.ledger_sequence, said.ledger_digest)
        found["head"]["signature"] = stranger.sign(message).hex()
        del found["signature"]
        found["signature"] = stranger.sign(excerpt_message(found)).hex()
        head = bytes.fromhex(found["head"]["signature"])
        return {"excerpt_json": canonical_json(found).decode(), "ledger_signature": head}

    DEEDS["client-3", "seal"] = at_the_end(saying(SealReply, forged))
    found, _ = ran(tmp_path, 4)
    assert found == {("seal", "client-3"): "ledger"}


@pytest.mark.parametrize(
    ("times", "changes"),
    [(1e30, {}), (-7.0, {}), (1e30, {"prototypes__whitening": 0.0, "prototypes__step": 50.0})],
)
def test_a_lie_inside_the_encrypted_sums_makes_no_model_that_others_cannot_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, changes: dict[str, Any]
):
    """Nobody can see it, so nobody is left out; the run ends, and with numbers."""
    from privacy.mechanisms import SumMechanism

    real, calls = SumMechanism.release, []

    def lying(mechanism: SumMechanism, *args: Any, **options: Any) -> np.ndarray:
        values = real(mechanism, *args, **options)
        if mechanism.limit > 2**61:  # counts in the clear
            return values
        calls.append(mechanism)
        if len(calls) % 4 or (changes and mechanism.statistics[0].kind != "gradient"):  # one client of four
            return values
        most = float(mechanism.limit)
        return np.clip(times * values.astype(np.float64), -most, most).astype(np.int64)

    monkeypatch.setattr(SumMechanism, "release", lying)
    found, _ = ran(tmp_path, 4, prototypes__rounds=4, prototypes__gradient_share=0.5, **changes)
    assert found == {}


def test_a_second_reply_of_a_client_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Twice(inprocess.InProcessGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
            asked = list(messages)
            found = list(super().send_and_receive(asked, timeout=timeout))
            again = [Message(Error(1, "second thoughts"), reply_to=message) for message in asked]
            return found if asked[0].metadata.message_type == "query.hello" else found + again

    monkeypatch.setattr(inprocess, "InProcessGrid", Twice)
    found, _ = ran(tmp_path, 3)
    assert found == {}


def test_too_many_of_them_end_the_run_and_are_named(tmp_path: Path):
    for party in ("client-1", "client-2"):
        DEEDS[party, "local_training"] = arrays(LocalTrainingReply, "classifier", filled(1e30))
    with pytest.raises(UserError, match="local-0: 1 clients are left.*client-1: implausible"):
        ran(tmp_path, 3)
