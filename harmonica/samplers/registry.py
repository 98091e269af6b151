"""Samplers by name."""

from harmonica.samplers.base import Sampler
from harmonica.samplers.ddim import DDIM
from harmonica.samplers.diffusers_scheduler import IDDPM, DPMSolverPP, SASolver
from harmonica.samplers.dpm_solver import DPMSolver
from harmonica.samplers.schedules import get_schedule
from harmonica.utils import unknown

SAMPLERS = {"ddim": DDIM, "dpmsolver++": DPMSolverPP, "iddpm": IDDPM, "sa-solver": SASolver, "dpm-solver": DPMSolver}


def make_sampler(name: str, steps: int, schedule: str = "linear") -> Sampler:
    """The sampler of that name for a model trained with that noise schedule. Raises UserError for an unknown name or an
    impossible number of steps."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name](steps, get_schedule(schedule))
