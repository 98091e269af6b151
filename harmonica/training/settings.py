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
    refresh: int | None = None  # C, rounds between two measurements of λ; None: one, before the first
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; smaller in a short training, or logits stay at ±5
    eps: float = 1e-8  # of AdamW; gradients here are as small as β · r(1−r), far below it for saturated logits

    def measures(self, k: int) -> bool:
        """Whether λ is measured before round `k`."""
        return k % (self.refresh or self.rounds) == 0

    @property
    def measurements(self) -> int:
        """How often λ is measured in all rounds."""
        return sum(map(self.measures, range(self.rounds)))


TRIALS = 14  # thresholds of a rule that are tried for a budget


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
    """Settings of every learned method; those in RECIPE default to the recipe of the model's scale."""

    RECIPE: ClassVar[tuple[str, ...]] = ("rounds", "batch", "lr", "refresh")

    target_cur: float = setting(25.0, "target CUR of the plan, percent; β is searched to meet it", above=0, at_most=100)
    beta: float | None = setting(None, "β, weight of Σr; if it is given, target_cur is ignored", above=0)
    threshold: float = setting(
        0.1, "τ, compute where r > τ; in training, and in the plan if the search met its target", at_least=0, below=1
    )
    rounds: int | None = setting(
        None, "trajectories (SDT), or updates of every routed step (Learning-to-Cache)", at_least=1
    )
    batch: int | None = setting(None, "images per round, before guidance doubles them", at_least=1)
    lr: float | None = setting(None, "learning rate of AdamW, without weight decay", above=0)
    refresh: int | None = setting(None, "C, rounds between two measurements of λ", at_least=1)
    checkpointing: bool | None = setting(None, "recompute branches for their gradients; default: if memory is short")
    off_target: bool = setting(False, "keep a router that ends far off target_cur, with its plan at τ")

    def check_target(self, method: str, reachable: float) -> None:
        """Raise UserError for a target above `reachable`, the highest CUR of this kind of router in percent."""
        if reachable <= 0:
            raise UserError(f"{method} has nothing to route: the only step computes everything")
        if self.beta is None and not 0 < self.target_cur <= reachable:
            raise UserError(
                f"{method} cannot reach a CUR of {self.target_cur:g} %: with this number of steps target_cur must be "
                f"in (0, {reachable:.1f}]"
            )

    def recipe(self, default: Recipe) -> Recipe:
        """The scale's recipe with the values set here."""
        return replace(default, **{k: v for k in self.RECIPE if (v := getattr(self, k)) is not None})


def routed_steps(steps: int, stages: int = 1) -> range:
    """Every second step, those that Learning-to-Cache routes; each follows one that computes everything.

    For a sampler with one evaluation per step (`stages`) they are the released DiT code's even countdown indices. With
    DPM-Solver-2 the released U-ViT code caches in the middle of an interval and reuses at the beginning of the next.
    """
    return range(stages if stages > 1 else 1 + steps % 2, steps, 2)
