"""Running a plan: one loop over steps, one over branches."""

from harmonica.execution.denoise import denoise
from harmonica.execution.guidance import Guided
from harmonica.execution.policy import Plain, Planned, Policy, StepPolicy
from harmonica.execution.run import Batch, Run, run

__all__ = ["Batch", "Guided", "Plain", "Planned", "Policy", "Run", "StepPolicy", "denoise", "run"]
