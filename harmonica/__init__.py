"""HarmoniCa-bench: a caching method is a function that returns a plan; one executor runs any plan on any backbone."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Plan", "Router", "cached", "disable_cache", "enable_cache", "is_cache_enabled", "load_pipeline", "run",
]  # fmt: skip

if TYPE_CHECKING:
    from harmonica.execution import run
    from harmonica.plan import Plan, Router
    from harmonica.runtimes.diffusers_pipelines import cached, disable_cache, enable_cache, is_cache_enabled
    from harmonica.runtimes.pipelines import load_pipeline

_HOME = {"Plan": "plan", "Router": "plan", "run": "execution", "load_pipeline": "runtimes.pipelines"} | dict.fromkeys(
    ("cached", "disable_cache", "enable_cache", "is_cache_enabled"), "runtimes.diffusers_pipelines"
)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import harmonica` loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"harmonica.{_HOME[name]}"), name)
