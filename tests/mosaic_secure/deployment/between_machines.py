"""What test_namespaces.py runs in namespaces of its own: a federation between machines, and their network.

The tests follow each other: the fixture makes the federation that they share.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosaic_secure.deployment.founding import load_federation

from .carried_out import AUTHORITY, CLIENTS, NAMES, CarriedOut, tiny_run
from .machines import Machines, environment
from .manual import block

PORT = 8443
REFUSED = 412  # by Flower: not the key of a node that was let in, or nodes do not let themselves in
KNOCK = str(Path(__file__).with_name("knock.py"))
WITHIN = 420.0


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CarriedOut]:
    """The manual's trial, waiting for runs."""
    machines = Machines(tmp_path_factory.mktemp("trial"), NAMES, environment())
    try:
        yield CarriedOut(machines, tiny_run("trial"), "each client; here client-0")
    finally:
        machines.close()


def test_the_commands_of_the_manual_end_in_a_sealed_run(trial: CarriedOut) -> None:
    said = trial.follow(block("server", 3), "server")
    assert "accuracy" in said[0]
    assert trial.contributors("runs/first") == list(CLIENTS)
    for name in CLIENTS:
        assert trial.follow(block("each client, later; here client-0"), name)
        assert trial.follow(block("a client that leaves; here client-0"), name)


def test_one_port_of_one_machine_is_open(trial: CarriedOut) -> None:
    assert _open_ports(trial, "server") == {PORT}
    for name in (AUTHORITY, *CLIENTS):
        assert _open_ports(trial, name) == set()


def test_other_machines_reach_the_nodes_interface_alone(trial: CarriedOut) -> None:
    inner = ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/control/register-node",
             "/v1/runtime/acquire-task", "/v1/runtime/get-nodes")  # fmt: skip
    there = _knock(trial, "client-0", "fl.example.org", *inner)
    assert there == dict.fromkeys(inner, 403)
    around = "/v1/fleet/../control/list-nodes"
    assert _knock(trial, "client-0", "fl.example.org", around)[around] in (403, 404)
    fleet = "/v1/fleet/pull-messages"
    assert _knock(trial, "client-0", "fl.example.org", fleet)[fleet] != 403
    assert 403 not in _knock(trial, "server", "127.0.0.1", *inner).values()


def test_a_node_that_was_not_let_in_is_refused(trial: CarriedOut) -> None:
    words = ["mosaic-secure", "keys", "card", "stranger", "--party", "client-0"]
    assert trial.machines.run("client-0", words).returncode == 0
    wanted = ("register:stranger/node.key", "come:stranger/node.key")
    assert _knock(trial, "client-0", "fl.example.org", *wanted) == dict.fromkeys(wanted, REFUSED)


@pytest.mark.parametrize("seconds", [20, 45])
def test_a_client_whose_network_was_away_takes_part_to_the_end(trial: CarriedOut, seconds: int) -> None:
    """45 seconds are longer than Flower's requests last, and shorter than a node counts as there."""
    out = f"runs/outage-{seconds}"
    going = trial.start_run(out)
    going.until("enrolment 1/1", WITHIN)
    trial.machines.cut("client-0")
    time.sleep(seconds)
    assert "global model" not in going.text, "the outage came too late to matter"
    trial.machines.mend("client-0")
    assert going.end(WITHIN) == 0, going.text
    assert "goes on without" not in going.text
    trial.verify(out)
    assert trial.contributors(out) == list(CLIENTS)


def test_a_slow_and_lossy_network_only_takes_longer(trial: CarriedOut) -> None:
    """By the kernel where it can, else by a program that carries each frame: 50 ms and 1 % each way."""
    queue = ["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "50ms", "loss", "1%"]
    netem = trial.machines.run("client-1", queue).returncode == 0
    if not netem:
        trial.machines.slow("client-1", 0.05, 0.01)
    try:
        assert _connecting(trial, "client-1") >= 0.05
        assert trial.start_run("runs/lossy").end(WITHIN) == 0
        trial.verify("runs/lossy")
        assert trial.contributors("runs/lossy") == list(CLIENTS)
    finally:
        if netem:
            trial.machines.run("client-1", ["tc", "qdisc", "del", "dev", "eth0", "root"])
        else:
            trial.machines.fast("client-1")


def test_a_client_that_stays_away_is_done_without_and_may_come_back(trial: CarriedOut) -> None:
    going = trial.start_run("runs/away", "--set", "engine.patience=60")
    going.until("enrolment 1/1", WITHIN)
    trial.machines.cut("client-2")
    assert going.end(WITHIN) == 0, going.text
    assert "goes on without client-2" in going.text
    trial.verify("runs/away")
    assert trial.contributors("runs/away") == list(CLIENTS[:2])
    trial.machines.mend("client-2")
    back = trial.start_run("runs/back")
    assert back.end(WITHIN) == 0, back.text
    assert trial.contributors("runs/back") == list(CLIENTS)


def test_machines_that_are_switched_off_and_on_in_a_run_go_on_with_it(trial: CarriedOut) -> None:
    going = trial.start_run("runs/off")
    going.until("enrolment 1/1", WITHIN)
    trial.switch_off_and_on("client-1")
    trial.switch_off_and_on("server")
    assert going.end(60) != 0
    words = block("server, to go on with a run").commands[0]
    again = trial.machines.start("server", [word.replace("runs/first", "runs/off") for word in words])
    assert again.end(WITHIN) == 0, again.text
    trial.verify("runs/off")
    assert trial.contributors("runs/off") == list(CLIENTS)


def test_a_client_that_was_revoked_is_out_and_a_renewed_certificate_holds(trial: CarriedOut) -> None:
    trial.machines.started.remove(gone := trial.going["client-2"])
    gone.process.terminate()
    assert gone.end(60) == 0
    wanted = "come:kit/node.key"
    assert _knock(trial, "client-2", "fl.example.org", wanted) == {wanted: 200}
    trial.bring_back()
    trial.follow(block("server, to shut client-2 out for good"), "server")
    trial.follow(block("server, to renew its certificate"), "server")
    trial.going["server"].until("client-2: its node is revoked")
    assert _knock(trial, "client-2", "fl.example.org", wanted) == {wanted: REFUSED}
    assert load_federation(trial.machines.folder("server") / "federation").revoked == ("client-2",)


def _knock(made: CarriedOut, name: str, host: str, *wanted: str) -> dict[str, int]:
    ca = str(made.machines.folder("server") / "federation" / "server" / "ca.pem")
    done = made.machines.run(name, [sys.executable, KNOCK, f"{host}:{PORT}", ca, *wanted])
    assert done.returncode == 0, done.stderr
    return {what: int(status) for what, status in (line.split() for line in done.stdout.splitlines())}


def _connecting(made: CarriedOut, name: str) -> float:
    """Seconds until a connection to the server stands: one round trip."""
    program = (
        "import socket, time; began = time.monotonic(); "
        f"socket.create_connection(('fl.example.org', {PORT}), 30).close(); print(time.monotonic() - began)"
    )
    done = made.machines.run(name, [sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def _open_ports(made: CarriedOut, name: str) -> set[int]:
    """TCP ports at which a machine listens for others."""
    found = set()
    for table in ("tcp", "tcp6"):
        done = made.machines.run(name, ["cat", f"/proc/net/{table}"])
        for line in done.stdout.splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, port = local.split(":")
            if state == "0A" and address not in ("0100007F", "0" * 24 + "01000000"):
                found.add(int(port, 16))
    return found
