"""Errors for the user: one sentence that says what was requested, what was found, and what to do."""

import difflib
import errno
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


def of_the_disk(error: Exception) -> bool:
    """Whether an error is of this machine's disk, and of nothing that was done with it: it is full, or may not be
    written to."""
    disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    return isinstance(error, OSError) and error.errno in disk


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
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as e:
        said = _out_of_memory(e, list(lower))
        if said is None:
            raise
        print(f"{program}: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


# what torch and numpy say of a size that no machine has, in errors of general classes
_TOO_LARGE = ("calculation overflowed", "multiplication overflow", "Overflow when unpacking", "array is too big",
              "Maximum allowed dimension")  # fmt: skip


def _out_of_memory(e: Exception, lower: list[str]) -> str | None:
    """One sentence if memory does not suffice, or would not for a number; None for another error. Torch says so by a
    class on a GPU, by text on a CPU."""
    text = (str(e).splitlines() or [""])[0]
    advice = f"lower {' or '.join(lower)}" if lower else "ask for less at a time"
    if isinstance(e, OverflowError) or any(x in text for x in _TOO_LARGE):
        return f"a number is too large for this machine ({text[:160]}); {advice}"
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        found = text.rpartition("memory: ")[2].split(". ")[0][:160]
        return f"out of memory{f' ({found})' if found else ''}: {advice}; finished work is kept"
    return None
