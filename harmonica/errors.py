"""Errors meant for the person at the keyboard: one sentence, what was asked, what was found, what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints the message and exits 2, without a traceback."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the closest match when there is one."""
    known = sorted(known)
    close = difflib.get_close_matches(name.rsplit(": ")[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
