"""How learned methods train: settings and the search for β (no torch), the loop, and the paper's SDT and IEPO."""

from harmonica.training.settings import TRIALS, LearnedSettings, Recipe, Work

__all__ = ["TRIALS", "LearnedSettings", "Recipe", "Work"]
