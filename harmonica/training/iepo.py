"""Image-error proxy (IEPO, paper section 4.3): how much reuse at a step hurts the final image, without gradients.

`official` is what the released code runs: from the uncached image, the soft router is enabled one more step at a time,
noisiest first, and λ of a step is the mean squared change of the image. `paper` is the formula: the
squared error between the image with the router at every step and the image with the cache switched off at that step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from harmonica.execution import Guided, Plain, Planned, denoise
from harmonica.execution.denoise import under_policy
from harmonica.plan import Plan, Router
from harmonica.samplers import Sampler, Seeds
from harmonica.training import distributed
from harmonica.training.logits import Logits
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.precision import products


def measure(
    task, form: str, starts: Sequence[Start], logits: Logits, threshold: float, softs: Sequence[Soft], tails: int = 0
) -> Tensor:
    """λ (steps,) in the given form: "official", "paper", or "one" for λ ≡ 1, over the images of all processes.

    `softs` are the training's students, one per part; the official form leaves their caches as after its last pass.
    `tails` limits the images of one evaluation, if not 0. λ is always measured in true float32, without TF32: a step
    changes the image by less than the rounding of a bfloat16 trajectory, which gives a λ twenty times too large.
    """
    if form == "one":
        return torch.ones(task.steps)
    total = torch.zeros(task.steps)
    with products("float32"):
        for start, soft in zip(starts, softs, strict=True):
            model = start.model
            if model.backbone is not task.precise:
                model = model.with_backbone(task.precise)
            if form == "paper":
                plan = Router(logits.numpy(), task.protocol).plan(threshold)
                own = paper(model, task.sampler, plan, start.noise, start.seeds)
            else:
                own = refreshed(model, task.sampler, logits, threshold, start.noise, start.seeds, soft, tails)
            total += start.share * own.cpu()
    return distributed.mean(total)


def refreshed(
    model: Guided,
    sampler: Sampler,
    logits: Logits,
    threshold: float,
    noise: Tensor,
    seeds: Seeds | None,
    soft: Soft,
    tails: int = 0,
) -> Tensor:
    """`official` from an empty cache; that of `soft` keeps the last pass's, in the training's dtype."""
    cache, dtype = soft.cache, soft.backbone.dtype
    cache.clear()
    precise = Soft(model.backbone, cache, offload=soft.offload)
    weights = official(model, sampler, logits, precise, threshold, noise, seeds, tails)
    cache.update({i: stored.to(dtype) for i, stored in cache.items()})
    return weights


def passes(form: str, steps: int) -> float:
    """The cost of one measurement of λ, in full trajectories."""
    tails = steps * (steps - 1) / 2
    return {"one": 0, "official": (tails + 1 + steps) / steps, "paper": (tails + steps) / steps}[form]


@torch.no_grad()
def official(
    model: Guided,
    sampler: Sampler,
    logits: Logits,
    soft: Soft,
    threshold: float,
    noise: Tensor,
    seeds: Seeds | None = None,
    tails: int = 0,
) -> Tensor:
    """λ (steps,) in execution order from noise (n, C, H, W): mean of (x0 with the router on up to step s − x0 with it
    on up to s−1)², over both guidance halves. `soft` is left with the cache of the last step.

    All prefixes are one soft trajectory, and the plain tails that branch off run together in one growing batch, of at
    most `tails` images at a time if that is not 0: T passes instead of T²/2. Latents are those of both halves: their
    unguided channels differ and count, though the model only ever sees the conditional half (official code,
    `forward_with_cfg`). A stochastic sampler adds the same noise, from `seeds(s)`, in all of them.
    """
    n, halves = len(noise), model.halves
    plain, together = Plain(model.backbone), max(1, tails // n) if tails else sampler.steps
    many: dict[int, Guided] = {}
    head = sampler.begin(noise.repeat(halves, 1, 1, 1))
    ends = head[None]  # (k, halves·n, C, H, W): the router was on up to step k−1
    for s, t in enumerate(sampler.timesteps):
        moved = []
        for group in ends.split(together):
            k = len(group)
            repeated = many.get(k) or model.repeated(k)
            if k == together:  # the only size that comes again
                many[k] = repeated
            out = repeated.both(sampler.latents(group[:, :n].flatten(0, 1)), t, plain)
            out = out.unflatten(0, (halves, k, n)).transpose(0, 1).flatten(1, 2)  # (k, halves·n, C_out, H, W)
            moved.append(sampler.step(s, out.flatten(0, 1), group.flatten(0, 1), seeds).unflatten(0, (k, -1)))
        ends = torch.cat(moved)
        row = logits.row(s, threshold) if s else None
        head = sampler.step(s, model.both(sampler.latents(head[:n]), t, soft.row(row)), head, seeds)
        if s:
            ends = torch.cat([ends, head[None]])
    x0 = sampler.latents(ends.flatten(0, 1)).unflatten(0, (len(ends), -1))
    change = (x0[1:] - x0[:-1]).square().flatten(1).mean(1)
    return torch.cat([torch.zeros_like(change[:1]), change])


@torch.no_grad()
def paper(model: Guided, sampler: Sampler, plan: Plan, noise: Tensor, seeds: Seeds | None = None) -> Tensor:
    """λ (steps,) in execution order from noise (n, C, H, W): λ_s = ‖x0 − x0^(s)‖²_F, the mean over the batch; x0 under
    the plan, x0^(s) under the plan with every branch computed (and cached) at step s.

    A run with the cache off at s starts from the latents and the cache that the plan's run has there.
    """
    main, state, variants = Planned(model.backbone, plan), sampler.begin(noise), []
    for s, t in enumerate(sampler.timesteps):
        if s:
            actions = plan.actions.copy()
            actions[s] = 0
            off = Planned(model.backbone, Plan(actions, plan.protocol), dict(main.cache.tensors))
            variants.append(denoise(sampler, state, under_policy(model, sampler, off), s, seeds))
        state = sampler.step(s, model(sampler.latents(state), t, main.at(s)), state, seeds)
    x0 = sampler.latents(state)
    gaps = [(x0 - v).square().flatten(1).sum(1).mean() for v in variants]
    return torch.stack([x0.new_zeros(()), *gaps])
