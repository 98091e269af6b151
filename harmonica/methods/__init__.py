"""Caching methods: the base they extend, how they are found, HarmoniCa itself. No torch."""

from harmonica.methods.base import LearnedMethod, Method, Reads, Task
from harmonica.methods.registry import get_method, known_methods
from harmonica.utils import setting

__all__ = ["LearnedMethod", "Method", "Reads", "Task", "get_method", "known_methods", "setting"]
