from __future__ import annotations

import importlib.util
import json

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from mosaic_secure.engine import simulation
from mosaic_secure.engine.discovery import discover
from mosaic_secure.engine.inprocess import InProcessGrid
from mosaic_secure.errors import UserError

PARTIES = [
    {"party": "client-0", "role": "client"},
    {"party": "client-1", "role": "client"},
    {"party": "authority", "role": "authority"},
]


def serve(grid: Grid) -> dict:
    """A small run: who is there, two rounds with state, and one failure."""
    nodes = discover(grid, len(PARTIES), version="1")

    def ask(what: str, **question: object) -> list:
        requests = [
            Message(RecordDict({"question": ConfigRecord(question)}), node.node_id, f"query.{what}")
            for node in nodes.values()
        ]
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(requests, timeout=60)}
        answers = (replies[node.node_id] for node in nodes.values())
        return [
            [r.error.code, r.error.reason] if r.has_error() else dict(r.content["answer"]) for r in answers
        ]

    echoes = ask("echo", text="hello")
    return {
        "roles": [node.role for node in nodes.values()],
        "echo": [[item["party"], item["text"], item["run"]] for item in echoes],
        "counts": [ask("count"), ask("count"), ask("count", fail=True)],
    }


def test_without_ray_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(simulation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mosaic-secure\[simulation\]"):
        simulation.run_simulation(ServerApp(), "tiny_app:app", PARTIES)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the simulation extra is not installed")
def test_both_engines_give_one_server_the_same_answers(tmp_path):
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        (tmp_path / "result.json").write_text(json.dumps([serve(grid), context.run_config["name"]]))

    simulation.run_simulation(server, "tiny_app:app", PARTIES, run_config={"name": "trial"})
    simulated, name = json.loads((tmp_path / "result.json").read_text())
    assert name == "trial"
    nodes = {1000 + i: party for i, party in enumerate(PARTIES)}
    with InProcessGrid(nodes, "tiny_app:app", workers=0, run_config={"name": "trial"}) as grid:
        assert serve(grid) == simulated
    assert simulated["counts"][1] == [{"value": 2}] * 3
    assert simulated["counts"][2] == [[2, "failed"]] * 3


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the simulation extra is not installed")
def test_what_the_server_raises_reaches_the_caller():
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise UserError("the plan is impossible")

    with pytest.raises(UserError, match="impossible"):
        simulation.run_simulation(server, "tiny_app:app", PARTIES)
