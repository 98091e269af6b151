"""HarmoniCa-bench: a caching method is a function that returns a plan; one executor runs any plan on any backbone."""

__version__ = "0.1.0"
