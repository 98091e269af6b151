"""Errors for the user: one sentence that says what was requested, what was found, and what to do."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input. The command line prints the message and exits 2, without a traceback."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the closest match when there is one."""
    known = sorted(known)
    close = difflib.get_close_matches(name.rsplit(": ")[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def guarded(program: str, function: Callable[[], int | None]) -> int:
    """Run a command; returns its exit status (its return value; None is 0).

    A mistake that the user can fix ends in one sentence, anything else in a traceback.
    """
    try:
        return function() or 0
    except UserError as e:
        print(f"{program}: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has enough: `harmonica show plan.safetensors | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        print(f"{program}: {e.strerror or e}: {e.filename or 'no file name'}; finished work is kept",
              file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
