"""Experiments, and the configurations that name them. No torch."""

from harmonica.experiments.compressed import CompressedModel
from harmonica.experiments.config import Row
from harmonica.experiments.experiment import Experiment

__all__ = ["CompressedModel", "Experiment", "Row"]
