"""`mosaic-secure serve`, `join` and `authority`: the long-running commands of a deployed federation."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from cli import options

if TYPE_CHECKING:
    from mosaic_secure.client.own_data import Places
    from mosaic_secure.client.session import ClientHome
    from mosaic_secure.deployment.kits import Kit

SERVE_EXAMPLE = "Example: mosaic-secure serve hospitals"
JOIN_EXAMPLE = "Example: mosaic-secure join kit --data scans --policy policy.toml"
AUTHORITY_EXAMPLE = "Example: mosaic-secure authority kit"

Superlink = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where the server is, if not as the federation says."),
]
RunOf = Annotated[
    str | None,
    typer.Option(metavar="NAME|PATH", help="With --dry-run: the run that the server would ask for."),
]
EpsilonOf = Annotated[
    str | None,
    typer.Option(metavar="NUMBER|inf", help="With --dry-run: its epsilon; caps are in the policy."),
]
SetOf = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="With --dry-run: any other field of it; repeatable."),
]
Threads = Annotated[int, typer.Option(min=1, max=256, help="Compute threads.")]


class _Processes(Protocol):
    def step(self, stop: threading.Event) -> None:
        """Do what there is to do; pauses a little."""

    def close(self) -> None:
        """End all processes."""


def serve(
    federation: Annotated[
        Path, typer.Argument(metavar="FEDERATION", help="Folder made by `keys init`.", show_default=False)
    ],
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of this machine, to listen at; all of them if not given."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port, if not as the federation says.")
    ] = None,
) -> None:
    """Run the server of a federation until told to end: a SuperLink, and the runs that are asked for."""
    from mosaic_secure.deployment.serving import Server

    stop = _stopping()
    server = Server(federation, host, port, _tell)
    try:
        server.start(stop)
        _tell(f"listens at {server.host}:{server.port}")
        _until(stop, server)
    finally:
        server.close()


def authority(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The authority's folder.", show_default=False)],
    superlink: Superlink = None,
) -> None:
    """Run the key authority until it is told to end: it holds the keys of runs, and decrypts sums alone."""
    _answer(_open(kit, "authority"), {}, superlink, 1)


def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="This client's folder.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="This client's own images, one folder a class."),
    ] = None,
    data_root: options.DataRoot = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rules to go by from now on, kept as KIT/policy.toml; with --dry-run tried out, not kept.",
        ),
    ] = None,
    superlink: Superlink = None,
    threads: Threads = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print all that would leave in a run of --config, and stop."),
    ] = False,
    config: RunOf = None,
    epsilon: EpsilonOf = None,
    settings: SetOf = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Leave all runs, or the one of --run, and stop.")
    ] = False,
    run: Annotated[str | None, typer.Option(metavar="ID", help="With --withdraw: the run to leave.")] = None,
    rejoin: Annotated[
        bool, typer.Option("--rejoin", help="Take back a withdrawal from all runs, and stop.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Take part in a federation until told to end: answer what this client's policy and ledger allow."""
    from mosaic_secure.client.own_data import Places, check_own_data
    from mosaic_secure.client.session import ClientHome
    from mosaic_secure.client.withdrawal import rejoin as take_back
    from mosaic_secure.client.withdrawal import withdraw as leave
    from mosaic_secure.errors import UserError

    _one_purpose(
        {"--dry-run": dry_run, "--withdraw": withdraw, "--rejoin": rejoin},
        {
            "--config": (config, "--dry-run"),
            "--epsilon": (epsilon, "--dry-run"),
            "--set": (settings, "--dry-run"),
            "--json": (json, "--dry-run"),
            "--run": (run, "--withdraw"),
        },
    )
    if policy is not None and (withdraw or rejoin):
        raise UserError("--policy: does not go with --withdraw or --rejoin, which no rules decide")
    opened = _open(kit, "client")
    if withdraw:
        print(leave(kit, run).text)
        if run is not None:
            _end(ClientHome(kit, opened.party.party), run)
        return
    if rejoin:
        take_back(kit)
        print(f"{opened.party.party} takes part again, from the next request on")
        return
    if policy is not None:
        _check_rules(policy, opened)
    places = {"data": data, "data_root": data_root}
    node_config = {name: str(Path(path).absolute()) for name, path in places.items() if path}
    found = Places.of({**node_config, "deployed": True})
    if dry_run:
        fields = options.overrides(settings, privacy__epsilon=epsilon)
        _disclose(opened, found, config, fields, policy, json)
        return
    if data is not None:
        check_own_data(found)
    if policy is not None:
        _lay_down(policy, opened)
    _answer(opened, node_config, superlink, threads)


def _one_purpose(purposes: Mapping[str, bool], companions: Mapping[str, tuple[object, str]]) -> None:
    """Refuse what would be passed over in silence: somebody may take `join --epsilon 1` for a cap."""
    from mosaic_secure.errors import UserError

    asked = [name for name, given in purposes.items() if given]
    if len(asked) > 1:
        raise UserError(f"{asked[0]} and {asked[1]}: give one of them; each stops when it is done")
    for name, (given, purpose) in companions.items():
        if given and purpose not in asked:
            cap = "; what a run may cost is in the policy" if purpose == "--dry-run" else ""
            raise UserError(f"{name}: goes with {purpose} alone{cap}")


def _end(home: ClientHome, run_id: str) -> None:
    from mosaic_secure.errors import UserError
    from privacy.errors import LedgerError

    try:
        ended = home.end(run_id)
    except LedgerError as error:
        raise UserError(
            f"withdrawn, but {error}; what the noise of run {run_id} came from is destroyed by the same "
            "command again, or when the server asks again"
        ) from None
    if ended:
        print("what its noise and masks came from, and what was derived from records, is destroyed")


def _check_rules(policy: Path, kit: Kit) -> None:
    """Refuse rules that are none, or do not fit the federation."""
    from mosaic_secure.deployment.kits import rules_problem
    from mosaic_secure.errors import UserError

    if problem := rules_problem(kit, policy):
        raise UserError(f"--policy: {problem}")


def _lay_down(policy: Path, kit: Kit) -> None:
    """Make `policy`, which fits, the client's rules: byte for byte, for its owner may have written notes."""
    from privacy.storage import write_durably

    given = policy.read_bytes()
    if not kit.rules.exists() or kit.rules.read_bytes() != given:
        write_durably(kit.rules, given)
        _tell(f"goes by {policy} from now on, kept as {kit.rules}")


def _disclose(
    kit: Kit,
    places: Places,
    config: str | None,
    fields: Mapping[str, Any],
    policy: Path | None,
    json: bool,
) -> None:
    from cli.disclosed import show_disclosure
    from mosaic_secure.client.disclosure import disclose_at
    from mosaic_secure.client.session import ClientHome
    from mosaic_secure.errors import UserError
    from mosaic_secure.plan import build_plan
    from privacy.policy import ClientPolicy

    if config is None:
        raise UserError("--dry-run: needs --config with the run that the server would ask for")
    given = {**fields, "clients.count": len(kit.description.clients), "engine.name": "deployed"}
    chosen = options.configuration(config, given)
    plan = build_plan(chosen, places.data_root)
    roster = kit.description.pinned
    home = ClientHome(kit.path, kit.party.party)
    rules = None if policy is None else ClientPolicy.load(policy)
    found = disclose_at(home, plan, kit.party.index, roster=roster, places=places, policy=rules)
    show_disclosure(found, json)


def _open(kit: Path, role: str) -> Kit:
    from mosaic_secure.deployment.kits import load_kit
    from mosaic_secure.errors import UserError

    opened = load_kit(kit)
    if opened.party.role != role:
        command = "authority" if role == "client" else "join"
        raise UserError(f"{kit}: is the kit of {opened.party.party}; use mosaic-secure {command}")
    return opened


def _answer(kit: Kit, node_config: dict[str, Any], superlink: str | None, threads: int) -> None:
    from mosaic_secure.deployment.description import parse_address
    from mosaic_secure.deployment.kits import rules_problem
    from mosaic_secure.deployment.party import PartyProcesses
    from mosaic_secure.errors import UserError

    if superlink is not None:
        try:
            parse_address(superlink)
        except UserError as error:
            raise UserError(f"--superlink {superlink}: {str(error).partition(': ')[2]}") from None
    if (problem := rules_problem(kit)) is not None:
        raise UserError(problem)
    stop = _stopping()
    party = PartyProcesses(kit, node_config, superlink, threads, _tell)
    try:
        party.start()
        at = superlink or kit.description.server
        _tell(f"{kit.party.party} of {kit.description.name}: answers what comes from {at}")
        _until(stop, party)
    finally:
        party.close()


def _stopping() -> threading.Event:
    """Set by Ctrl-C and by SIGTERM: both mean that this process is to end in good order."""
    from mosaic_secure.deployment.leash import hold

    hold()  # started by a local cluster, it ends with that
    stop = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return stop


def _until(stop: threading.Event, processes: _Processes) -> None:
    while not stop.is_set():
        processes.step(stop)
    _tell("ends")


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
