"""What `train --log` tells a tracker, and that a tracker cannot cost a run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mosaic_secure.runs import tracking
from mosaic_secure.runs.directory import RunDirectory

from ..tiny import command, private_options, tiny_options, tiny_train


class Listening:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.readings: list[tuple[str, int, float]] = []
        self.parameters: Mapping[str, str] = {}
        self.results: Mapping[str, float] = {}
        self.closed = 0

    def reading(self, name: str, step: int, value: float) -> None:
        self.readings.append((name, step, value))

    def finish(self, parameters: Mapping[str, str], results: Mapping[str, float]) -> None:
        self.parameters, self.results = parameters, results

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def listening(monkeypatch) -> dict[str, Listening]:
    """Name of a run -> the tracker that stood in for TensorBoard beside it."""
    made: dict[str, Listening] = {}

    class Make:
        def __call__(self, run: str, _folder: Path) -> Listening:
            return made.setdefault(run, Listening())

        def check(self, _folder: Path) -> None:
            pass

    monkeypatch.setattr(tracking, "_MAKERS", {"tensorboard": Make(), "mlflow": Make()})
    return made


def test_losses_come_during_the_run_and_the_results_at_its_end(listening, tmp_path: Path):
    outcome = tiny_train(tmp_path, "--log", "tensorboard", distill__steps=25)
    assert outcome.status == 0, outcome.err
    told = listening["run"]
    assert [(name, step) for name, step, _ in told.readings] == [
        ("gate/loss", 0),
        *(("distillation/loss", step) for step in (0, 10, 20)),
    ]
    assert told.closed == 1
    result = RunDirectory.open(tmp_path / "run").manifest["result"]
    assert told.results["accuracy/global"] == result["accuracy"]
    assert told.results["privacy/epsilon"] == pytest.approx(result["epsilon"], rel=1e-6)
    assert sum(v for k, v in told.results.items() if k.startswith("budget/")) == pytest.approx(1)
    assert told.results["bytes/moments-0"] > 1000
    assert told.parameters["distill.steps"] == "25" and told.parameters["privacy.epsilon"] == "4.0"


def test_where_private_data_lie_is_told_to_nobody(listening, tmp_path: Path):
    options = private_options(tmp_path / "CLINIC")
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    outcome = command("train", *options, *places, "--log", "tensorboard")
    assert outcome.status == 0, outcome.err
    told = listening["run"]
    everything = repr((told.readings, told.parameters, told.results))
    assert told.parameters["data.dataset"] and "CLINIC" not in everything and str(tmp_path) not in everything
    assert not [name for name in told.results if name.startswith(("accuracy", "balanced", "auc"))]


def test_nothing_of_private_data_is_told_that_no_noise_protects(listening, tmp_path: Path):
    lifted = ["--set", "privacy.max_epsilon_per_run=inf", "--set", "privacy.max_epsilon_lifetime=inf"]
    options = [*private_options(tmp_path / "images"), "--epsilon", "inf", *lifted]
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    told = command("train", *options, *places, "--log", "tensorboard").refusal
    assert "--log: the data are private and a run at epsilon inf protects nothing" in told
    assert not listening and not (tmp_path / "run").exists()


def test_a_tracker_that_fails_is_given_up_and_the_run_goes_on(listening, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Listening, "reading", lambda *_: 1 / 0)
    outcome = tiny_train(tmp_path, "--log", "tensorboard")
    assert outcome.status == 0 and RunDirectory.open(tmp_path / "run").sealed
    warned = [line for line in outcome.err.splitlines() if line.startswith("WARNING: ")]
    assert warned == ["WARNING: --log tensorboard: given up for this run, which goes on: division by zero"]
    assert outcome.json["accuracy"] is not None


def test_a_grid_tells_a_tracker_of_each_run(listening, tmp_path: Path):
    options = ["--epsilons", "4", "--seeds", "1", "--baselines", "local", "--log", "tensorboard"]
    places = ["--out", tmp_path / "it", "--ledger-dir", tmp_path / "ledgers"]
    assert command("curve", *options, *tiny_options(), *places).status == 0
    runs = {path.name for path in (tmp_path / "it" / "runs").iterdir()}
    assert set(listening) == {f"it/{name}" for name in runs} and len(runs) == 3
    assert all(told.closed == 1 and told.results for told in listening.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("wandb", "'wandb' is no tracker; choose from tensorboard, mlflow"),
        (",", "names no tracker; choose from tensorboard, mlflow"),
        ("mlflow", "set MLFLOW_TRACKING_URI to your tracking server"),
    ],
)
def test_what_cannot_be_told_is_refused_before_the_run(tmp_path: Path, monkeypatch, words: str, told: str):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if words == "mlflow":
        pytest.importorskip("mlflow", reason="needs the extra mlflow")
    assert told in tiny_train(tmp_path, "--log", words).refusal
    assert not (tmp_path / "run").exists() and not (tmp_path / "ledgers").exists()


def test_a_grid_is_refused_before_its_first_run(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    (tmp_path / "taken").write_text("a file")
    places = ["--out", tmp_path / "it", "--ledger-dir", tmp_path / "ledgers", "--log-dir", tmp_path / "taken"]
    told = command("curve", "--epsilons", "4", "--log", "tensorboard", *tiny_options(), *places).refusal
    assert "--log-dir" in told and {path.name for path in tmp_path.iterdir()} == {"taken"}


@pytest.mark.parametrize(
    ("kind", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow.tracking")]
)
def test_a_missing_package_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch, kind: str, module: str
):
    monkeypatch.setitem(sys.modules, module, None)
    told = tiny_train(tmp_path, "--log", kind).refusal
    assert f"pip install 'mosaic-secure[{kind}]'" in told and not (tmp_path / "run").exists()


def test_tensorboard_can_read_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = tiny_train(tmp_path, "--log", "tensorboard", "--log-dir", tmp_path / "logs", distill__steps=15)
    assert outcome.status == 0, outcome.err
    found = EventAccumulator(str(tmp_path / "logs" / "run"))
    found.Reload()
    assert [event.step for event in found.Scalars("distillation/loss")] == [0, 10]
    (score,) = found.Scalars("accuracy/global")
    assert score.value == pytest.approx(outcome.json["accuracy"])


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A tracking server as far as a client notices: its address with a password, and (path, body) heard."""
    heard: list[tuple[str, str]] = []

    run = {"info": {"run_id": "r1", "experiment_id": "7", "status": "RUNNING"}, "data": {}}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "runs/get" in self.path:
                self._answer(200, {"run": run})
                return
            self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is none"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            heard.append((self.path.rsplit("mlflow/", 1)[1], body))
            self._answer(200, {"experiment_id": "7", "run": run, "run_info": run["info"]})

        do_PATCH = do_POST

        def _answer(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield f"http://me:open-sesame@127.0.0.1:{listener.server_address[1]}", heard
        listener.shutdown()
        thread.join()


def test_mlflow_gets_the_same_and_its_password_is_shown_nowhere(server, tmp_path: Path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    address, heard = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    outcome = tiny_train(tmp_path, "--log", "mlflow")
    assert outcome.status == 0 and "given up" not in outcome.err, outcome.err
    names = [path for path, _ in heard]
    assert names[:2] == ["experiments/create", "runs/create"] and names[-1] == "runs/update"
    batches = [json.loads(body) for path, body in heard if path == "runs/log-batch"]
    metrics = {row["key"]: row["value"] for batch in batches for row in batch.get("metrics", ())}
    assert metrics["accuracy/global"] == outcome.json["accuracy"] and metrics["privacy/epsilon"] < 4
    assert json.loads(heard[-1][1])["status"] == "FINISHED"
    assert "open-sesame" not in outcome.out + outcome.err and outcome.json["run"]
    assert str(tmp_path) not in "".join(body for _, body in heard)


def test_a_server_that_does_not_answer_is_told_in_one_line_without_its_password(tmp_path: Path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:open-sesame@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = tiny_train(tmp_path, "--log", "mlflow").refusal
    assert "MLFLOW_TRACKING_URI" in told and "open-sesame" not in told
    assert not (tmp_path / "run").exists()
