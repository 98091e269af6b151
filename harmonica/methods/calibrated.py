"""The base of methods that make their plan from a few recorded trajectories."""

from dataclasses import dataclass

from harmonica.methods.base import Method, Reads
from harmonica.plan import Protocol
from harmonica.training import Work
from harmonica.utils import setting


@dataclass(frozen=True, kw_only=True)
class CalibratedMethod(Method):
    """It records `images` trajectories of the uncached model with `task.record`."""

    seeded = True

    images: int = setting(8, "recorded trajectories", at_least=1, at_most=10_000)

    def reads(self, protocol: Protocol) -> Reads:
        return Reads(weights=True)

    def work(self, protocol: Protocol, scale: str) -> Work:
        return Work(evaluations=self.images * protocol.steps, batch=self.images)
