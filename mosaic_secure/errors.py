"""The one error type for mistakes a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input from the user: one clear line that says what is wrong and what would be right.

    The command line prints the message as ``error: ...`` and leaves with exit status 2. The message is for
    the local display; code that answers over the network must send a fixed code instead.
    """
