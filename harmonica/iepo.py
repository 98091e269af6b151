"""Image-error proxy (IEPO, paper section 4.3): how much reuse at a step hurts the final image, without gradients.

`official` is what the released code runs: from the uncached image on, the soft router is switched on for one more step
at a time, from the noisiest, and λ of a step is the mean squared change that it made. `paper` is the formula: the
squared error between the image with the router at every step and the image with the cache switched off at that step.
"""

import torch
from torch import Tensor

from harmonica import distributed
from harmonica.executor import Plain, Planned, Soft
from harmonica.logits import Logits
from harmonica.plan import Plan
from harmonica.router import Router
from harmonica.sampling import Guided, Seeds, denoise


def measure(
    task, form: str, model: Guided, logits: Logits, threshold: float, noise: Tensor, seeds: Seeds | None, cache: dict
) -> Tensor:
    """λ (steps,) in the given form: "official", "paper", or "one" for λ ≡ 1, over the images of all processes.

    `cache` is the one that the training goes on with; the official form leaves it as its last pass did. λ is always
    measured in float32: a step changes the image by less than a bfloat16 trajectory does by its rounding, and λ of the
    reference trace came out twenty times too large.
    """
    if form == "one":
        return torch.ones(task.steps)
    if model.backbone is not task.precise:
        model = Guided(task.precise, model.labels, model.cfg, model.channels)
    if form == "paper":
        plan = Router(logits.numpy(), task.origin()).plan(threshold)
        return distributed.mean(paper(model, task.sampler, plan, noise, seeds))
    return distributed.mean(refreshed(model, task.sampler, logits, threshold, noise, seeds, cache, task.backbone.dtype))


def refreshed(
    model: Guided, sampler, logits: Logits, threshold: float, noise: Tensor, seeds: Seeds | None, cache: dict, dtype
) -> Tensor:
    """`official` from an empty cache; `cache` is left as the last pass did, in the training's type."""
    cache.clear()
    weights = official(model, sampler, logits, Soft(model.backbone, threshold, cache), noise, seeds)
    cache.update({i: stored.to(dtype) for i, stored in cache.items()})
    return weights


def passes(form: str, steps: int) -> float:
    """How many whole trajectories' evaluations of the model one measurement takes."""
    tails = steps * (steps - 1) / 2
    return {"one": 0, "official": (tails + 1 + steps) / steps, "paper": (tails + steps) / steps}[form]


@torch.no_grad()
def official(model: Guided, sampler, logits: Logits, soft: Soft, noise: Tensor, seeds: Seeds | None = None) -> Tensor:
    """λ (steps,) in execution order from noise (n, C, H, W): mean of (x0 with the router on up to step s − x0 with it
    on up to s−1)², over both guidance halves. `soft` is left with the cache of the last step.

    All prefixes are one soft trajectory, and the plain tails that leave it run together in one growing batch: T passes
    instead of T²/2. The latents are those of both halves: their unguided channels differ and count, though the model
    only ever sees the conditional half (official code, `forward_with_cfg`). A stochastic sampler adds the same noise,
    from `seeds(s)`, in all of them.
    """
    n, halves = len(noise), 1 if model.cfg == 1.0 else 2
    plain = Plain(model.backbone)
    head = sampler.begin(noise.repeat(halves, 1, 1, 1))
    tails = head[None]  # (k, halves·n, C, H, W): the router was on up to step k−1
    for s, t in enumerate(sampler.timesteps):
        k = len(tails)
        out = model.repeated(k).both(tails[:, :n].flatten(0, 1), t, plain)
        out = out.unflatten(0, (halves, k, n)).transpose(0, 1).flatten(1, 2)  # (k, halves·n, C_out, H, W)
        tails = sampler.step(s, out.flatten(0, 1), tails.flatten(0, 1), seeds).unflatten(0, (k, -1))
        head = sampler.step(s, model.both(head[:n], t, soft.row(logits.ratios(s) if s else None)), head, seeds)
        if s:
            tails = torch.cat([tails, head[None]])
    x0 = tails[:, :, : noise.shape[1]]
    change = (x0[1:] - x0[:-1]).square().flatten(1).mean(1)
    return torch.cat([torch.zeros_like(change[:1]), change])


@torch.no_grad()
def paper(model: Guided, sampler, plan: Plan, noise: Tensor, seeds: Seeds | None = None) -> Tensor:
    """λ (steps,) in execution order from noise (n, C, H, W): λ_s = ‖x0 − x0^(s)‖²_F, the mean over the batch; x0 under
    the plan, x0^(s) under the plan with every branch computed (and cached) at step s.

    A run with the cache off at s starts from the latents and the cache that the plan's run has there.
    """
    main, x, variants = Planned(model.backbone, plan), sampler.begin(noise), []
    for s, t in enumerate(sampler.timesteps):
        if s:
            actions = plan.actions.copy()
            actions[s] = 0
            off = Planned(model.backbone, Plan(actions, plan.origin), dict(main.cache))
            switched = denoise(x, sampler, lambda x, s, off=off: model(x, sampler.timesteps[s], off.at(s)), s, seeds)
            variants.append(switched)
        x = sampler.step(s, model(x, t, main.at(s)), x, seeds)
    gaps = [(x - v)[:, : noise.shape[1]].square().flatten(1).sum(1).mean() for v in variants]
    return torch.stack([x.new_zeros(()), *gaps])
