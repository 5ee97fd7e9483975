"""Exit statuses, and how every error becomes one line on standard error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import click

DONE = 0
FAILED = 1
BAD_INPUT = 2
VERDICT_FAILED = 3
INTERRUPTED = 130

DEBUG_VARIABLE = "MOSAIC_DEBUG"


class Interrupted(Exception):
    """The user, or a SIGTERM, stopped a command; the text is what to show, such as how to go on."""


def guarded(command: Callable[[], object]) -> int:
    """Run a command and turn its outcome into an exit status; errors become one line on standard error.

    Mistakes of the user end with 2, an interrupt with 130, anything unforeseen with 1 (and its traceback only
    if the environment variable ``MOSAIC_DEBUG`` is set).
    """
    try:
        outcome = command()
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else DONE
    except Interrupted as stop:
        _say(str(stop))
        return INTERRUPTED
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        return _usage(error)
    except click.ClickException as error:
        return _refuse(error.format_message())
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _explain(error)


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Within, SIGTERM acts like Ctrl-C: it raises KeyboardInterrupt in the main thread."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: Exception) -> int:
    from mosaic_secure.errors import UserError
    from privacy.errors import PrivacyError

    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, UserError | PrivacyError):
        return _refuse(str(error))
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    _say(f"error: unexpected {detail} (set {DEBUG_VARIABLE}=1 to see where)")
    return FAILED


def _usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return BAD_INPUT
    where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    return _refuse(error.format_message() + where)


def _refuse(message: str) -> int:
    _say(f"error: {message}")
    return BAD_INPUT


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
