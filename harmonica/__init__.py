"""HarmoniCa-bench: a caching method is a function that returns a plan; one executor runs any plan on any backbone."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Plan", "Router", "disable_cache", "enable_cache", "run"]

if TYPE_CHECKING:
    from harmonica.execution import run
    from harmonica.plan import Plan, Router
    from harmonica.runtimes.diffusers_pipelines import disable_cache, enable_cache

_HOME = {"Plan": "plan", "Router": "plan", "run": "execution", "enable_cache": "runtimes.diffusers_pipelines",
         "disable_cache": "runtimes.diffusers_pipelines"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import harmonica` loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"harmonica.{_HOME[name]}"), name)
