"""What the messages of a run amount to, held against its log."""

from __future__ import annotations

import json

from mosaic_secure.protocol.traffic import told_traffic, traffic_of


def test_traffic_is_that_of_the_log_and_is_told_in_the_metrics(finished):
    log = finished.path / "messages.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = traffic_of(log)
    assert sum(item.messages for item in found) == len(lines)
    sent = sum(field["bytes"] for line in lines if line["src"] == "server" for field in line["fields"])
    come = sum(field["bytes"] for line in lines if line["src"] != "server" for field in line["fields"])
    assert (sum(item.to_parties for item in found), sum(item.to_server for item in found)) == (sent, come)
    assert [item.stage for item in found][:4] == ["enrol", "anchor", "authority", "centre"]
    metrics = map(json.loads, (finished.path / "metrics.jsonl").read_text().splitlines())
    assert told_traffic(metrics) == found


def test_rounds_of_one_release_are_taken_together(tmp_path):
    def line(stage: str, source: str, size: int) -> str:
        return json.dumps({"stage": stage, "src_role": source, "fields": [{"bytes": size}]})

    log = tmp_path / "messages.jsonl"
    stages = ("gradient-0", "gradient-1", "gradient-0-unmask", "gradient-1-unmask", "mask-shares")
    log.write_text("\n".join(line(stage, "server", 5) + "\n" + line(stage, "client", 7) for stage in stages))
    found = {t.stage: (t.rounds, t.messages, t.to_parties, t.to_server) for t in traffic_of(log)}
    assert found == {
        "gradient": (2, 4, 10, 14),
        "gradient-unmask": (2, 4, 10, 14),
        "mask-shares": (1, 2, 5, 7),
    }
