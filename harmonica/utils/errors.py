"""Errors for the user: one sentence that says what was requested, what was found, and what to do."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input. The command line prints the message and exits 2, without a traceback."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the closest match when there is one."""
    known, name = sorted(map(str, known)), str(name)
    close = difflib.get_close_matches(name.rsplit(": ")[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def guarded(program: str, function: Callable[[], int | None], lower: Iterable[str] = ()) -> int:
    """Run a command; returns its exit status (its return value; None is 0).

    A mistake that the user can fix ends in one sentence, anything else in a traceback. `lower` are the options of which
    a smaller value takes less memory.
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
    except (MemoryError, OverflowError, RuntimeError) as e:
        if not _is_out_of_memory(e):
            raise
        print(f"{program}: {_out_of_memory(e, list(lower))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def _is_out_of_memory(e: Exception) -> bool:
    """Whether memory did not suffice, or a number is too large. Torch says so by a class on a GPU, by text on a CPU."""
    return (
        not isinstance(e, RuntimeError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(e)
    )


def _out_of_memory(e: Exception, lower: list[str]) -> str:
    advice = f"lower {' or '.join(lower)}" if lower else "ask for less at a time"
    if isinstance(e, OverflowError):
        return f"a number is too large for this machine ({e}); {advice}"
    found = (str(e).splitlines() or [""])[0].split(". ")[0][:160]
    return f"out of memory{f' ({found})' if found else ''}: {advice}; finished work is kept"
