"""What a party tells the others when its code fails: one fixed code. The reason stays local."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import flwr.app

FAILED = "failed"
CRASHED = "crashed"
NOT_LOADED = "not-loaded"
TOO_LARGE = 1001
"""Error code, none of Flower's, that a grid gives in place of a reply too large to be taken from the net."""


def hide_failures(
    request: flwr.app.Message,
    context: flwr.app.Context,
    call_next: Callable[[flwr.app.Message, flwr.app.Context], flwr.app.Message],
) -> flwr.app.Message:
    """A Flower mod: an exception becomes an error reply that says nothing about it.

    Flower sends the text of an exception to the server, and that text can hold private data. With this mod
    the reply holds Flower's code for a failed app and the word ``failed``; the traceback goes to
    ``failures.log`` in the party's home (``node_config["home"]``), readable by its owner only.
    """
    try:
        return call_next(request, context)
    except Exception as error:
        return failed_reply(request, context, error)


def failed_reply(
    request: flwr.app.Message, context: flwr.app.Context, error: BaseException
) -> flwr.app.Message:
    """Note an exception locally and make the reply that hides it."""
    from flwr.app import Message
    from flwr.app.error import Error
    from flwr.common.constant import ErrorCode

    note_failure(context.node_config.get("home"), request.metadata.message_type, error)
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=request)


def note_failure(home: object, what: str, error: BaseException) -> None:
    """Append a traceback to ``failures.log`` in a party's home, if there is such a folder.

    Never raises: an exception here would travel in place of the one that is to be hidden. Names of files need
    not be text, so what no encoding takes is escaped.
    """
    try:
        if not isinstance(home, str) or not home or not Path(home).is_dir():
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        place = os.open(Path(home) / "failures.log", flags, 0o600)
        with os.fdopen(place, "a", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"{what}\n{''.join(traceback.format_exception(error))}\n")
    except Exception:
        return
