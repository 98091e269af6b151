"""Step-wise denoising training (SDT, paper section 4.2): a router trained on the trajectories of inference."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harmonica.execution import Plain
from harmonica.models import get_model
from harmonica.plan import BranchLayout, Protocol, Router
from harmonica.samplers import Sampler
from harmonica.training import LearnedSettings, Recipe, Work, iepo
from harmonica.training.beta_search import BetaSearch
from harmonica.training.logits import Logits, Loss, Part
from harmonica.training.loop import train_router
from harmonica.training.memory import Split
from harmonica.training.soft import Soft
from harmonica.training.starts import Start, bounds, random_starts

TRAIN_STEPS, REFRESH_STEPS = 20_000, 500  # of the released command


def recipe_for(scale: str, steps: int, layout: BranchLayout, form: str = "official") -> Recipe:
    """The recipe of a scale for T = `steps` on a model and a `form` of λ (see iepo.py); a round is one trajectory.

    The released command counts updates of single timesteps: 20 000 of them and λ every 500, which are 2 000
    trajectories and every 50 at its T = 10. For another T the number of updates is assumed to stay, as neither paper
    nor code gives it: every logit then gets fewer updates, and a training costs the same at any T. A batch is 32
    images, assumed for all models of up to 1024 tokens; above, as many tokens: 8 images of 1024², 2 of 2048².

    The pocket recipe measures the official λ once, with the initial router. λ of a step at which the router reuses
    nothing is near 0, so a new λ sends reuse there, and the next one away. At the released rate a logit moves by at
    most .5 between two measurements; here it crosses its whole range, λ of a step jumps a thousandfold, and the search
    for β starts over. The paper's λ is that of the plan at τ, which at first reuses next to nothing: it is measured on
    the way. λ ≡ 1 needs no batch that averages it, so rounds are of two images, and more.
    """
    if scale == "paper":
        rounds, refresh = max(1, round(TRAIN_STEPS / steps)), max(1, round(REFRESH_STEPS / steps))
        batch = max(1, 32 * 1024 // max(layout.tokens, 1024))  # the released 64 are 32 and 32 null labels
        return Recipe(rounds=rounds, batch=batch, lr=0.01, refresh=refresh)
    rounds, batch = (70, 2) if form == "one" else (30, 8)
    measured_every = 5 if form == "paper" else None
    return Recipe(rounds=rounds, batch=batch, lr=0.5, refresh=measured_every, betas=(0.7, 0.7), eps=1e-16)


def trajectory(
    starts: Sequence[Start],
    sampler: Sampler,
    logits: Logits,
    softs: Sequence[Soft],
    weights: Sequence[float] | Tensor,
    beta: float,
    threshold: float,
    stale: bool = True,
) -> tuple[list[Tensor], list[Loss]]:
    """One training iteration: from noise to x0, with one update of every step's logits on the way.

    `softs` are the students of the parts, `weights` is λ (steps,). The released code does not clear the cache between
    iterations, so its noisiest step mixes in 1 − sigmoid(5) of the last one's; with `stale` False the caches are empty,
    as in the paper. Returns x0 (n, C, H, W) of every part and the losses of steps 1 … T−1.
    """
    lam, losses = [float(w) for w in weights], []

    def update(s: int, parts: Iterator[Part]) -> None:
        losses.append(logits.descend([s], parts, lam[s], beta))

    return walk(starts, sampler, logits, softs, threshold, update, stale), losses


def balances(
    starts: Sequence[Start],
    sampler: Sampler,
    logits: Logits,
    softs: Sequence[Soft],
    threshold: float,
    weights: Sequence[float] | Tensor,
) -> np.ndarray:
    """For every routed branch the β at which it would settle at the threshold, (steps − 1, branches): one trajectory
    without updates, from empty caches."""
    lam, out = [float(w) for w in weights], []

    def note(s: int, parts: Iterator[Part]) -> None:
        out.append(logits.balances([s], parts, lam[s], threshold)[0])

    walk(starts, sampler, logits, softs, threshold, note, stale=False)
    return np.stack(out)


def walk(
    starts: Sequence[Start],
    sampler: Sampler,
    logits: Logits,
    softs: Sequence[Soft],
    threshold: float,
    visit: Callable[[int, Iterator[Part]], None],
    stale: bool,
) -> list[Tensor]:
    """x0 (n, C, H, W) of every part of a batch; `visit(s, parts)` consumes the errors of every step after the first.

    Teacher and student see the same latents; the next latents are the student's. The parts advance together, since an
    update waits for the gradients of all.
    """
    states = [sampler.begin(start.noise) for start in starts]
    for s, t in enumerate(sampler.timesteps):
        outputs: list[Tensor] = []
        if s == 0:
            first = logits.row(0, threshold) if stale else None  # at the limit: 1 − r = 0.67 %
            with torch.no_grad():
                for start, soft, state in zip(starts, softs, states, strict=True):
                    outputs.append(start.model(sampler.latents(state), t, soft.row(first)))
        else:
            visit(s, compared(starts, sampler, softs, states, s, logits, threshold, outputs))
        states = [
            sampler.step(s, out, state, start.seeds) for start, out, state in zip(starts, outputs, states, strict=True)
        ]
    return [sampler.latents(state) for state in states]


def compared(
    starts: Sequence[Start],
    sampler: Sampler,
    softs: Sequence[Soft],
    states: Sequence[Tensor],
    s: int,
    logits: Logits,
    threshold: float,
    outputs: list[Tensor],
) -> Iterator[Part]:
    """Every part's squared error of the student at step `s` over both guidance halves; the student's output
    (n, C_out, H, W) is appended to `outputs`."""
    t = sampler.timesteps[s]
    for start, soft, state in zip(starts, softs, states, strict=True):
        x, plain = sampler.latents(state), Plain(start.model.backbone)
        with torch.no_grad():
            teacher = start.model.both(x, t, plain)
        student = start.model.both(x, t, soft.row(logits.row(s, threshold), plain.first))
        outputs.append(student[: len(x)].detach())
        yield Part.of(start.share, teacher, student)


def work(settings: LearnedSettings, protocol: Protocol, scale: str, form: str) -> Work:
    """What this training computes."""
    T = protocol.steps
    recipe = settings.recipe(recipe_for(scale, T, get_model(protocol.model).layout, form))
    trajectories = 1 + recipe.rounds  # one for the first guess of β
    lam = recipe.measurements * iepo.passes(form, T) * T
    return Work(trajectories * (T - 1) * recipe.batch, trajectories * recipe.batch, recipe.batch, lam * recipe.batch)


def train(task, settings: LearnedSettings, form: str, stale: bool = True) -> Router:
    """A router for the task. `form` of λ: "official" or "paper" (see iepo.py), or "one" for λ ≡ 1 (L_LTC).

    No images are used. Raises UserError if the target CUR cannot be met, or was missed.
    """
    tau, recipe = settings.threshold, settings.recipe(recipe_for(task.model.scale, task.steps, task.layout, form))
    split = Split.of(task.layout, recipe.batch, task.memory, settings.checkpointing, task.itemsize)
    own = bounds(recipe.batch, split.part)
    caches: list[dict[int, Tensor]] = [{} for _ in own]
    kept: dict[str, Any] = {"weights": torch.ones(task.steps), "measured": torch.zeros(())}

    def students(caches: list[dict[int, Tensor]]) -> list[Soft]:
        return [Soft(task.backbone, cache, split.checkpointing, split.offload) for cache in caches]

    def image_error(starts: list[Start], logits: Logits) -> Tensor:
        kept["measured"] += 1
        return iepo.measure(task, form, starts, logits, tau, students(caches), split.tails)

    def guess(logits: Logits, g: torch.Generator) -> np.ndarray:
        starts = random_starts(task, recipe.batch, split.part, g)
        weights = torch.ones(task.steps)
        if form != "paper":  # whose λ is 0 at steps where nothing is reused yet, from which no β can be guessed
            weights = kept["weights"] = image_error(starts, logits)
        return balances(starts, task.sampler, logits, students([{} for _ in own]), tau, weights)

    def one_round(k: int, logits: Logits, search: BetaSearch, g: torch.Generator) -> list[Loss]:
        starts = random_starts(task, recipe.batch, split.part, g)
        due = recipe.measures(k) and k < recipe.rounds  # λ is constant in rounds added for the target
        if due and (k or not kept["measured"]):
            kept["weights"] = image_error(starts, logits)
        return trajectory(starts, task.sampler, logits, students(caches), kept["weights"], search.beta, tau, stale)[1]

    notes = {"lambda": form, "split": split.record()}
    router = train_router(task, settings, recipe, range(1, task.steps), guess, one_round, kept, (own, caches), notes)
    return router.with_cost(generation_passes=float(kept["measured"]) * iepo.passes(form, task.steps))
