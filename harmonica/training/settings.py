"""The settings that all learned methods share. No torch."""

from dataclasses import dataclass, replace
from typing import ClassVar

from harmonica.utils import SAMPLING, UserError, setting

SOURCES = (
    *SAMPLING,
    "training",
    "models/loading.py",
    "models/state_dicts.py",
    "models/training_images.py",
)  # what a trained router depends on


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a training."""

    rounds: int
    batch: int
    lr: float
    refresh: int = 1  # C, rounds between two measurements of λ
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; smaller in a short training, or logits stay at ±5
    eps: float = 1e-8  # of AdamW; gradients here are as small as β · r(1−r), far below it for saturated logits


@dataclass(frozen=True)
class Work:
    """What a training computes, counted in single images: for `harmonica estimate`."""

    updates: float = 0.0  # teacher, student and gradient at one step
    evaluations: float = 0.0  # of the plain model
    batch: int = 1
    measured: float = 0.0  # evaluations for λ, in true float32, always with guidance
    guided: bool = True  # whether an image of the others is evaluated with both guidance halves
    graph_steps: int = 1  # evaluations whose activations one gradient needs
    keeps_cache: bool = True  # whether the caches of a whole batch live at once


@dataclass(frozen=True, kw_only=True)
class LearnedSettings:
    """Settings of every learned method; those in RECIPE default to the recipe of the model's scale.

    Raises UserError for a threshold outside [0, 1), or a number that is not positive.
    """

    RECIPE: ClassVar[tuple[str, ...]] = ("rounds", "batch", "lr", "refresh")

    target_cur: float = setting(25.0, "target CUR of the plan, percent; β is searched to meet it")
    beta: float | None = setting(None, "β, weight of Σr; if it is given, target_cur is ignored")
    threshold: float = setting(0.1, "τ, compute where r > τ; in training, and in the plan if the search met its target")
    rounds: int | None = setting(None, "trajectories (SDT), or updates of every routed step (Learning-to-Cache)")
    batch: int | None = setting(None, "images per round, before guidance doubles them")
    lr: float | None = setting(None, "learning rate of AdamW, without weight decay")
    refresh: int | None = setting(None, "C, rounds between two measurements of λ")
    checkpointing: bool | None = setting(None, "recompute branches for their gradients; default: if memory is short")

    def __post_init__(self):
        if not 0 <= self.threshold < 1:
            raise UserError(f"threshold must be in [0, 1), got {self.threshold:g}")
        for key in ("beta", *self.RECIPE):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"{key} must be positive, got {value:g}")

    def recipe(self, default: Recipe) -> Recipe:
        """The scale's recipe with the values set here."""
        return replace(default, **{k: v for k in self.RECIPE if (v := getattr(self, k)) is not None})
