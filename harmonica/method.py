"""HarmoniCa: Harmonizing Training and Inference for Better Feature Caching in Diffusion Transformer Acceleration
(Huang et al., ICML 2025, arXiv 2410.01723).

A router trained by step-wise denoising (sdt.py) with the image-error proxy as the weight of a step's loss (iepo.py).
"""

from dataclasses import dataclass
from typing import Literal

from harmonica.learning import LearnedSettings
from harmonica.router import Router

TITLE = "HarmoniCa"


@dataclass(frozen=True, kw_only=True)
class Settings(LearnedSettings):
    form: Literal["official", "paper"] = "official"  # how λ is measured and whether the cache is cleared, see iepo.py


def make(task, settings: Settings) -> Router:
    from harmonica.sdt import train

    return train(task, settings, settings.form, stale=settings.form == "official")
