"""Samplers under one interface. Importing them needs no torch."""

from harmonica.samplers.base import Sampler, Seeds
from harmonica.samplers.registry import SAMPLERS, make_sampler

__all__ = ["SAMPLERS", "Sampler", "Seeds", "make_sampler"]
