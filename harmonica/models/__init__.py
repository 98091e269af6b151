"""The suite's models: specifications (no torch), weights, captions and training images."""

from harmonica.models.catalog import MODELS, get_model, known
from harmonica.models.spec import Model

__all__ = ["MODELS", "Model", "get_model", "known"]
