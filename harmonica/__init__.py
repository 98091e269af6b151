"""HarmoniCa-bench: a caching method is a function that returns a plan; one executor runs any plan on any backbone."""

__version__ = "0.1.0"


def enable_cache(pipe, plan):
    """Run a stock diffusers pipeline under a plan or the plan in a file, see `harmonica.pipelines.enable_cache`."""
    from harmonica import pipelines

    return pipelines.enable_cache(pipe, plan)


def disable_cache(pipe):
    """Undo `enable_cache`."""
    from harmonica import pipelines

    return pipelines.disable_cache(pipe)
