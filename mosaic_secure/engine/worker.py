"""The worker side of the pool: import once, fork, then answer one message at a time until the engine is gone.

The first process imports the heavy libraries and the app, forks the other workers (which share those
pages), and becomes a worker itself. Every worker watches its socket beside the work: when the engine dies in
any way, even by SIGKILL, the worker ends at once, so that no orphan holds a ledger or a core.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence

from mosaic_secure.engine.execution import AppNotFound, Job, execute, load_app
from mosaic_secure.engine.frames import receive_frame, send_frame

_REAP_EVERY_MS = 500


def main(settings: str) -> None:
    """Start one worker per socket in ``settings`` (JSON: ``sockets``, ``preload``, ``app``, ``threads``)."""
    options = json.loads(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine answers Ctrl-C
    os.dup2(2, 1)  # standard output belongs to the command line
    _preload([*options["preload"], options["app"].partition(":")[0]], options["threads"])
    mine, *others = options["sockets"]
    children = []
    for index, descriptor in enumerate(others):
        pid = os.fork()
        if pid == 0:
            for other in (mine, *others[:index], *others[index + 1 :]):
                with contextlib.suppress(OSError):
                    os.close(other)
            _serve(descriptor, [])
        os.close(descriptor)
        children.append(pid)
    _serve(mine, children)


def _preload(modules: Sequence[str], threads: int) -> None:
    for name in modules:
        # What cannot be imported here is reported when it is needed; a forked worker tries again.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    gc.collect()
    gc.freeze()


def _serve(descriptor: int, children: Sequence[int]) -> None:
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_watch, args=(descriptor, list(children)), daemon=True).start()
    _reseed()
    try:
        send_frame(connection, {"ready": os.getpid()})
        while True:
            header, (message, state) = receive_frame(connection)
            try:
                outcome = execute(Job(**header, message=message, state=state), load_app(header["app"]))
            except AppNotFound:
                traceback.print_exc()
                send_frame(connection, {"outcome": "not-loaded"})
            else:
                send_frame(connection, {"outcome": "reply"}, (outcome.reply, outcome.state))
                del outcome
            del header, message, state
            _give_memory_back()
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _watch(descriptor: int, children: list[int]) -> None:
    """End this process when the engine's end of the socket is closed; collect forked workers that ended."""
    poller = select.poll()
    poller.register(descriptor, 0)  # a hang-up is reported without being asked for
    while not poller.poll(_REAP_EVERY_MS):
        for pid in list(children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            children.remove(pid)
    os._exit(0)


def _reseed() -> None:
    """Forked workers inherit equal states of the libraries' own generators: let no two draw alike."""
    if torch := sys.modules.get("torch"):
        torch.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _give_memory_back() -> None:
    import ctypes

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
