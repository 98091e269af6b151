"""How what is made for a protocol, with a seed and settings, is checked, named and written as a command."""

import re
import shlex
from collections.abc import Iterable
from typing import Any

from harmonica.plan import Protocol
from harmonica.samplers import make_sampler
from harmonica.utils import UserError, spelled


def check_protocol(protocol: Protocol) -> None:
    """Raise UserError for a sampler, a number of steps or a guidance scale that cannot be."""
    make_sampler(protocol.sampler, protocol.steps)
    if not 1 <= protocol.cfg < float("inf"):
        raise UserError(f"the guidance scale must be at least 1, got {protocol.cfg}")


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that is none."""
    if not 0 <= seed < 2**31:
        raise UserError(f"the seed must be in [0, {2**31 - 1}], got {seed}")


def with_settings(name: str, settings: Any) -> str:
    """A name and the settings that differ from their default."""
    return "-".join([name] + [f"{k}{v}" for k, v in spelled(settings).items()])


def slug(protocol: Protocol, seed: int, *parts: str) -> str:
    """The name of a file."""
    out = [protocol.model, f"{protocol.sampler}{protocol.steps}"]
    out += [f"cfg{protocol.cfg:g}"] if protocol.cfg != 1.5 else []
    out += [f"seed{seed}"] if seed else []
    return re.sub(r"[^A-Za-z0-9._-]", "", "_".join([*out, *parts]))


def arguments(name: str, protocol: Protocol, seed: int, settings: Iterable[tuple[str, Any]]) -> str:
    """The command line after `harmonica plan` or `harmonica compress`."""
    out = [name, "--model", protocol.model, "--sampler", protocol.sampler, "--steps", protocol.steps]
    out += ["--cfg", protocol.cfg, "--seed", seed]
    for key, value in settings:
        out += ["--set", f"{key}={value}"]
    return shlex.join(map(str, out))
