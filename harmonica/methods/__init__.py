"""Caching methods: the base they extend, how they are found, HarmoniCa itself. No torch."""

from harmonica.methods.base import LearnedMethod, Method, Reads, Task
from harmonica.methods.calibrated import CalibratedMethod
from harmonica.methods.registry import get_method, known_methods
from harmonica.methods.ruled import RuledMethod
from harmonica.methods.scheduled import ScheduledForecast, forecasts
from harmonica.utils import setting

__all__ = [
    "CalibratedMethod", "LearnedMethod", "Method", "Reads", "RuledMethod", "ScheduledForecast", "Task", "forecasts",
    "get_method", "known_methods", "setting",
]  # fmt: skip
