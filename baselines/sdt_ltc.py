"""SDT + L_LTC, the HarmoniCa paper's ablation (table 6): its training with Learning-to-Cache's loss, λ ≡ 1."""

from dataclasses import dataclass

from harmonica.learning import LearnedSettings, Work
from harmonica.router import Router

TITLE = "SDT + L_LTC"


@dataclass(frozen=True, kw_only=True)
class Settings(LearnedSettings):
    pass


def make(task, settings: Settings) -> Router:
    from harmonica.sdt import train

    return train(task, settings, "one")


def work(experiment, scale: str, sampler) -> Work:
    from harmonica import sdt

    return sdt.work(experiment, scale, "one")
