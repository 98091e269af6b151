"""The one loop over the steps of a sampler."""

from collections.abc import Callable

from torch import Tensor

from harmonica.execution.guidance import Guided
from harmonica.execution.policy import Policy
from harmonica.samplers import Sampler, Seeds

Output = Callable[[Tensor, int], Tensor]  # of the model, for latents (n, C, H, W) at step s
Callback = Callable[[int, Tensor], None]  # called with s and the latents (n, C, H, W) after step s


def denoise(
    sampler: Sampler,
    state: Tensor,
    output: Output,
    start: int = 0,
    seeds: Seeds | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Latents (n, C, H, W) at the end of a trajectory with state `state` before step `start` (see `samplers.base`).

    Model and callback get latents only, not the sampler's memory.
    """
    for s in range(start, sampler.steps):
        state = sampler.step(s, output(sampler.latents(state), s), state, seeds)
        if callback:
            callback(s, sampler.latents(state))
    return sampler.latents(state)


def under_policy(model: Guided, sampler: Sampler, policy: Policy) -> Output:
    """The output of a guided model under a policy; steps that the policy groups run in one batch."""
    ready: dict[int, Tensor] = {}  # outputs of later steps of the last group

    def output(latents: Tensor, s: int) -> Tensor:
        if s in ready:
            return ready.pop(s)
        group = policy.group(s)
        if len(group) == 1:
            return model(latents, sampler.timesteps[s], policy.at(s))
        times = [sampler.timesteps[k] for k in group]
        outputs = model.together(latents, times, policy.together(group, model.halves))
        ready.update(zip(group, outputs, strict=True))
        return ready.pop(s)

    return output
