"""HarmoniCa: Harmonizing Training and Inference for Better Feature Caching in Diffusion Transformer Acceleration
(Huang et al., ICML 2025, arXiv 2410.01723).

A router trained by step-wise denoising (training/sdt.py) with the image-error proxy λ as the weight of a step's loss
(training/iepo.py).

The released code and the paper's text differ; `compat` selects one:

|                          | official (default)                           | paper                                  |
|--------------------------|----------------------------------------------|----------------------------------------|
| λ of a step              | image change when reuse is switched on there,| squared distance of the images with    |
|                          | after all noisier steps; a mean              | reuse at all steps and all but that; a sum |
| masks in the λ passes    | soft: r·fresh + (1−r)·cached                 | the plan at τ                          |
| cache between iterations | kept: 1 − sigmoid(5) = 0.67 % of it is mixed | cleared                                |
|                          | into the noisiest step                       |                                        |
| noise of the λ passes    | the round's own, the same in all passes; the released code sets a constant seed, which |
|                          | changes nothing with DDIM                                                             |

`official` is the default because the published numbers come from it; `harmonica replay` checks it on traces.
"""

from dataclasses import dataclass
from typing import Literal

from harmonica.methods import LearnedMethod, Task, setting
from harmonica.plan import Protocol, Router
from harmonica.training import Work


@dataclass(frozen=True, kw_only=True)
class HarmoniCa(LearnedMethod):
    title = "HarmoniCa"

    compat: Literal["official", "paper"] = setting("official", "follow the released code or the paper's text")

    def make(self, task: Task) -> Router:
        from harmonica.training.sdt import train

        return train(task, self, self.compat, stale=self.compat == "official")

    def work(self, protocol: Protocol, scale: str) -> Work:
        from harmonica.training import sdt

        return sdt.work(self, protocol, scale, self.compat)
