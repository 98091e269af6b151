"""Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching (Ma et al., NeurIPS 2024, arXiv 2406.01733).

Every second step is routed; the cache is filled by the step before and dropped after it, so CUR is at most 50 %. It
trains on noised real images: one uncached step t → t−1 fills the cache, and the logits of step t−1 learn to reuse it.

`iepo` is from HarmoniCa's ablations: its image-error proxy λ as the weight of a step's loss, in this training.
"""

from dataclasses import dataclass, replace

from harmonica.methods import LearnedMethod, Reads, Task, setting
from harmonica.plan import Protocol, Router
from harmonica.samplers import make_sampler
from harmonica.training import Work
from harmonica.training.settings import routed_steps


@dataclass(frozen=True, kw_only=True)
class LearningToCache(LearnedMethod):
    title = "Learning-to-Cache"

    iepo: bool = setting(False, "weight the steps by λ, as HarmoniCa does")

    def reads(self, protocol: Protocol) -> Reads:
        return replace(super().reads(protocol), images=True)

    def routed(self, protocol: Protocol) -> range:
        return routed_steps(protocol.steps, make_sampler(protocol.sampler, protocol.steps).stages)

    def make(self, task: Task) -> Router:
        from harmonica.training.learning_to_cache import train

        return train(task, self, self.iepo)

    def work(self, protocol: Protocol, scale: str) -> Work:
        from harmonica.training import learning_to_cache

        return learning_to_cache.work(self, self.iepo, protocol.sampler, protocol.steps, scale)
