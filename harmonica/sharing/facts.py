"""What a plan or router is, in words: `harmonica show` prints them, and a card lists them."""

import re
from collections.abc import Iterator
from typing import Any

from harmonica.plan import Origin, Plan, Router, macs, theoretical_speedup
from harmonica.sharing.files import layout_of, plan_of

# an absolute path, a path in a home folder, or one with a drive; not a fraction, a URL, or a repository's name
_LOCAL = re.compile(r"(?<![\w/.:])(?:/[\w.-]+/|~[\w.-]*/|[A-Za-z]:\\)|file://")


def headline(made: Plan | Router) -> str:
    """Method, protocol and savings, in one line. Raises UserError if it has other branches than its model."""
    p, plan = made.protocol, plan_of(made)
    layout_of(made)
    noise = f", prior noise {p.prior_noise:g}" if p.prior_noise else ""
    what = f"{made.origin.method} for {p.model}, {p.sampler}, {p.steps} steps, guidance scale {p.cfg:g}{noise}"
    if isinstance(made, Plan):
        return printable(f"{what}: {savings(made)}")
    steps, branches = made.logits.shape
    threshold = f"; at its threshold, {made.origin.notes['threshold']:g}: {savings(plan)}" if plan else ""
    return printable(f"router of {what}: logits of {steps} steps × {branches} branches{threshold}")


def savings(plan: Plan) -> str:
    """CUR, and on a known model MACs and theoretical speed-up; of a rule what its calibration images did."""
    if plan.rule:
        measured = [f"{k} {plan.origin.notes[k]:g} %" for k in ("CUR", "CUR_sd") if k in plan.origin.notes]
        return f"a rule decides at run time, CUR at most {plan.cur:.2f} %" + "".join(f", {m}" for m in measured)
    layout = layout_of(plan)
    if layout is None:
        return f"CUR {plan.cur:.2f} %"
    return (
        f"CUR {plan.cur:.2f} %, {macs(plan, layout) / 1e9:.4g} GMACs per image and guidance half, "
        f"theoretical speed-up {theoretical_speedup(plan, layout):.2f}x at an equal number of steps"
    )


def facts(origin: Origin) -> list[tuple[str, str]]:
    """Where it comes from: names, and values in words. What is empty is left out."""
    about = vars(origin) | {"notes": {k: v for k, v in origin.notes.items() if k != "layout"}}  # a long list of MACs
    found = [(k, listed(about[k])) for k in ("settings", "notes", "cost", "hardware", "versions")]
    return [("seed", str(origin.seed)), *((k, text) for k, text in found if text)]


def listed(values: dict[str, Any]) -> str:
    return printable(", ".join(f"{k} = {v}" for k, v in values.items()))


def printable(text: str) -> str:
    """The text without what would control a terminal: files come from others."""
    return "".join(c if c.isprintable() else "�" for c in text)


def local_paths(origin: Origin) -> list[str]:
    """What in an origin names a folder of the machine that it was made on."""
    parts = {k: getattr(origin, k) for k in ("method", "settings", "notes", "cost", "hardware", "versions")}
    return [text for text in _texts(parts) if _LOCAL.search(text)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from (*_texts(key), *_texts(part))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value
