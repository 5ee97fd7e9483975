from __future__ import annotations

import json

import numpy as np
import pytest

from mosaic_secure.protocol.log import SERVER, MessageLog, Party, walk
from mosaic_secure.protocol.messages import DecryptRequest, LocalTrainingReply, LocalTrainingRequest
from mosaic_secure.protocol.trust import TrustError

CLIENT = Party("client", "client-0")
AUTHORITY = Party("authority", "authority")


def filled(path) -> MessageLog:
    log = MessageLog(path)
    log.record("local", LocalTrainingRequest(run_id="r", round=0), SERVER, CLIENT)
    log.record("local", LocalTrainingReply(code="ok", classifier={"w": np.full(3, 0.5)}), CLIENT, SERVER)
    request = DecryptRequest(run_id="r", round_id="p0", magnitude_bound=1, contributions=[b"one"])
    log.record("prototypes", request, SERVER, AUTHORITY)
    log.record_failure("prototypes", DecryptRequest, AUTHORITY, SERVER, 2)
    return log


def test_a_log_names_fields_sizes_and_hashes_and_passes_the_walk(tmp_path):
    path = tmp_path / "messages.jsonl"
    filled(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    classifier = next(item for item in lines[1]["fields"] if item["name"] == "classifier")
    assert (classifier["name"], classifier["class"]) == ("classifier", "dp_release")
    assert classifier["bytes"] >= 24 and len(classifier["sha256"]) == 64
    assert lines[2]["dst_role"] == "authority" and lines[3]["failure"] == 2
    report = walk(path)
    assert report.problems == ()
    assert report.messages == 4


def test_a_forbidden_message_is_refused_and_not_written(tmp_path):
    log = filled(tmp_path / "messages.jsonl")
    before = (tmp_path / "messages.jsonl").read_bytes()
    with pytest.raises(TrustError):
        log.record("local", LocalTrainingReply(code="ok"), SERVER, AUTHORITY)
    assert (tmp_path / "messages.jsonl").read_bytes() == before


def test_a_torn_last_line_is_dropped_and_the_numbers_go_on(tmp_path):
    path = tmp_path / "messages.jsonl"
    filled(path)
    with path.open("ab") as out:
        out.write(b'{"schema_version": 1, "sequ')
    MessageLog(path).record("local", LocalTrainingRequest(run_id="r", round=0), SERVER, CLIENT)
    assert walk(path).problems == ()
    assert walk(path).messages == 5


@pytest.mark.parametrize(
    ("line", "change", "says"),
    [
        (1, {"dst_role": "authority"}, "must not go"),
        (1, {"message": "Unheard"}, "unknown message"),
        (1, {"fields": []}, "fields are not those"),
        (1, {"sequence": 7}, "sequence"),
        (3, {"dst_role": "client"}, "must not go"),
        (1, {"fields": None}, "not a line"),
    ],
)
def test_the_walk_finds_what_was_changed(tmp_path, line, change, says):
    path = tmp_path / "messages.jsonl"
    filled(path)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[line].update(change)
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    problems = walk(path).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"line {line + 1}:") and says in problems[0]


def test_the_walk_believes_no_class_that_the_log_claims(tmp_path):
    path = tmp_path / "messages.jsonl"
    filled(path)
    path.write_text(path.read_text().replace("dp_release", "public"))
    assert len(walk(path).problems) == 1


def test_a_log_is_for_its_owner_only(tmp_path):
    filled(tmp_path / "messages.jsonl")
    assert (tmp_path / "messages.jsonl").stat().st_mode & 0o777 == 0o600
