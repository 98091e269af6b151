"""Running a plan: one loop over steps, one over branches."""

from harmonica.execution.denoise import denoise
from harmonica.execution.guidance import Guided
from harmonica.execution.policy import Plain, Planned, Policy, StepPolicy
from harmonica.execution.rules import Ruled
from harmonica.execution.run import Batch, Run, policy_of, run

__all__ = [
    "Batch", "Guided", "Plain", "Planned", "Policy", "Ruled", "Run", "StepPolicy", "denoise", "policy_of", "run",
]  # fmt: skip
