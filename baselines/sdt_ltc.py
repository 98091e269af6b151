"""SDT + L_LTC, the HarmoniCa paper's ablation (table 6): its training with Learning-to-Cache's loss, λ ≡ 1."""

from dataclasses import dataclass

from harmonica.methods import LearnedMethod, Task
from harmonica.plan import Protocol, Router
from harmonica.training import Work


@dataclass(frozen=True, kw_only=True)
class SDTLTC(LearnedMethod):
    title = "SDT + L_LTC"

    def make(self, task: Task) -> Router:
        from harmonica.training.sdt import train

        return train(task, self, "one")

    def work(self, protocol: Protocol, scale: str) -> Work:
        from harmonica.training import sdt

        return sdt.work(self, protocol, scale, "one")
