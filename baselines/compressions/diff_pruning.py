"""Diff-Pruning: Structural Pruning for Diffusion Models (Fang et al., NeurIPS 2023, arXiv 2305.10924).

- Gradients of the noise loss are added up over timesteps t = 0, 1, 2 … on one batch with fixed noise, until a loss is
  below `threshold` times the largest so far: noisy steps have small losses, and say little.
- A unit's importance is Σ |w · ∂w| over its weights. In every layer the same share of units is removed, once.
- The rest is trained as the model was, with an average of the weights (EMA).

It was published for U-Nets. Units of a transformer are hidden channels of the MLPs and whole heads; the width of the
stream stays. As the paper's row has HarmoniCa's latency, the ratio is by default that which has the MACs of reusing
`target_cur` percent of every branch. It learns from training images: no other row of the table sees any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harmonica.compression import Compression, CompressionTask, Compressor
from harmonica.models import Model
from harmonica.plan import BranchLayout, Protocol
from harmonica.plan.costs import SLACK, weight_bytes
from harmonica.training.memory import GRADIENT_WORK
from harmonica.utils import UserError, setting
from harmonica.utils.memory import budget

if TYPE_CHECKING:
    from torch import Tensor

ALIGNED = 8  # hidden channels are kept in multiples of it
LABEL_DROPOUT = 0.1
KEPT = 9.5  # activations that a branch keeps for its weights' gradients, in tensors of the stream's size (tests/gpu)


@dataclass(frozen=True)
class DiffPruning(Compressor):
    title = "Diff-Pruning"
    images = True
    seeded = True

    ratio: float | None = setting(None, "share of units to remove; default: what target_cur says", above=0, below=1)
    target_cur: float = setting(
        37.5, "percent; the MACs of reusing so much of every branch are the target", above=0, below=100
    )
    threshold: float = setting(0.05, "of the largest loss, at which the walk over timesteps ends", above=0, below=1)
    stride: int = setting(10, "timesteps from one gradient to the next", at_least=1)
    updates: int | None = setting(
        None, "of the training after pruning; default: 100 000, at the pocket scale 600", at_least=1
    )
    batch: int | None = setting(None, "images of an update; default: 128, at the pocket scale 64", at_least=1)
    lr: float = setting(2e-4, "of AdamW", above=0)

    def recipe(self, scale: str) -> tuple[int, int]:
        """Updates after pruning, and images of each."""
        updates, batch = (100_000, 128) if scale == "paper" else (600, 64)
        return self.updates or updates, self.batch or batch

    def work(self, protocol: Protocol, scale: str) -> tuple[float, float]:
        updates, batch = self.recipe(scale)
        return 0.0, updates * batch / 2.0  # without guidance

    def peak(self, model: Model, memory: float | None) -> float:
        return peak_bytes(model.layout, part_size(model.layout, self.recipe(model.scale)[1], memory))

    def make(self, task: CompressionTask) -> Compression:
        import torch

        from harmonica.compression.units import cut, heads_of, importance, modulation_macs, pruned_layout

        model, layout = task.backbone, task.model.layout
        updates, batch = self.recipe(task.model.scale)
        g = torch.Generator().manual_seed(task.seed)
        data = Images(task, g)
        heads, modulation = heads_of(model), modulation_macs(model)
        once = 0.0 if not hasattr(model, "key_value") else task.model.text_tokens * sum(
            layer.weight.numel() for layer in model.key_value
        )  # fmt: skip

        def changed(left_heads: int, left_hidden: int) -> dict:
            return pruned_layout(layout, left_heads / heads, left_hidden / hidden, modulation, once)

        def macs(left: tuple[int, int]) -> float:
            return sum(changed(*left)["branch_macs"]) + layout.other_macs

        part = part_size(layout, batch, budget(None))
        self._accumulate(task, model, data, batch, part)
        scores = importance(model, heads)
        hidden = next(len(v) for (_, kind), v in scores.items() if kind == "hidden")
        if self.ratio is None:
            wanted = sum(layout.branch_macs) * (1 - self.target_cur / 100) + layout.other_macs
            left = min(
                (self._left(r / 1000, heads, hidden) for r in range(1, 1000)), key=lambda n: abs(macs(n) - wanted)
            )
        else:
            left = self._left(self.ratio, heads, hidden)
        number = {"heads": left[0], "cross-heads": left[0], "hidden": left[1]}
        kept = {key: s.topk(number[key[1]]).indices.sort().values for key, s in scores.items()}
        cut(model, kept, heads)
        loss = self._train(task, model, data, updates, batch, part)
        cost = {"images": data.seen(), "updates": updates}
        notes = {"loss": loss, "removed_heads": 1 - left[0] / heads, "removed_hidden": 1 - left[1] / hidden,
                 "batch": batch}  # fmt: skip
        units = {f"kept.{block}.{kind}": index.to(torch.int16) for (block, kind), index in kept.items()}
        return task.compression(model.state_dict() | units, {}, kept={"heads": left[0], "hidden": left[1]},
                                layout=changed(*left), cost=cost, notes=notes)  # fmt: skip

    @staticmethod
    def _left(ratio: float, heads: int, hidden: int) -> tuple[int, int]:
        """Heads and hidden channels that a ratio leaves, at least one head."""
        channels = round(hidden * (1 - ratio) / ALIGNED) * ALIGNED
        return max(1, round(heads * (1 - ratio))), max(min(ALIGNED, hidden), min(hidden, channels))

    def _accumulate(self, task, model, data: Images, batch: int, part: int) -> None:
        """Gradients of the noise loss, added up until the loss is below the threshold."""
        import torch

        from harmonica.compression.learning import finite

        model.requires_grad_(True)
        x0, labels = data.draw(batch, dropout=0.0)
        noise, largest = data.noise(batch), 0.0
        for t in range(0, 1000, self.stride):
            given = x0, labels, noise, torch.full((batch,), t)
            with torch.no_grad():  # it decides whether there is a gradient, of parts or of all
                loss = float(finite(total(data.losses(model, *given, part)), task))
            largest = max(largest, loss)
            if loss < self.threshold * largest:
                break
            total(data.losses(model, *given, part), backward=True)

    def _train(self, task, model, data: Images, updates: int, batch: int, part: int) -> float:
        """Train the pruned model, which then has the average of its weights; returns the last loss."""
        import torch
        from tqdm import tqdm

        from harmonica.compression.learning import finite

        model.requires_grad_(True)
        for p in model.parameters():
            p.grad = None
        decay = 1 - 10 / max(updates, 20)  # the average is over the last tenth
        average = {k: p.detach().clone() for k, p in model.named_parameters()}
        optimiser = torch.optim.AdamW(model.parameters(), self.lr, weight_decay=0.0)
        loss = torch.zeros(())
        for _ in tqdm(range(updates), desc=task.name, mininterval=5):
            x0, labels = data.draw(batch, LABEL_DROPOUT)
            t = torch.randint(1000, (batch,), generator=data.g)
            optimiser.zero_grad(set_to_none=True)
            loss = finite(total(data.losses(model, x0, labels, data.noise(batch), t, part), backward=True), task)
            optimiser.step()
            with torch.no_grad():
                for k, p in model.named_parameters():
                    average[k].lerp_(p, 1 - decay)
        with torch.no_grad():
            for k, p in model.named_parameters():
                p.copy_(average[k])
        model.requires_grad_(False)
        return float(loss)


def peak_bytes(layout: BranchLayout, images: int) -> float:
    """Predicted peak bytes of an update: weights, gradients, AdamW's two moments, the average, and activations."""
    kept = KEPT * len(layout.branches) + GRADIENT_WORK + len(layout.skips)
    return SLACK * (5 * weight_bytes(layout) + 4 * images * (kept * layout.stream_elements + layout.condition_elements))


def part_size(layout: BranchLayout, batch: int, memory: float | None) -> int:
    """Images whose activations are in memory at a time: the most, in equal parts of a batch, that fit into `memory`
    bytes. Raises UserError if one image does not."""
    for part in sorted({-(-batch // k) for k in range(1, batch + 1)}, reverse=True):
        if memory is None or peak_bytes(layout, part) <= memory:
            return part
    assert memory is not None
    raise UserError(
        f"training {layout.name} after pruning needs {peak_bytes(layout, 1) / 2**30:.1f} GiB, more than the "
        f"{memory / 2**30:.1f} GiB of gpu_memory"
    )


def total(losses: Iterable[Tensor], backward: bool = False) -> Tensor:
    """The sum () of the losses of a batch's parts, whose gradients are added up one after the other."""
    import torch

    found = []
    for loss in losses:
        if backward:
            loss.backward()
        found.append(loss.detach())
    return torch.stack(found).sum()


class Images:
    """Training images as latents, and the loss of the noise that was added to them; which were drawn is counted."""

    def __init__(self, task: CompressionTask, g):
        import torch

        from harmonica.samplers.schedules import get_schedule

        self.task, self.g = task, g
        self.latents, self.labels = task.training_latents()
        self.schedule = get_schedule(task.model.schedule)
        self.bar = torch.from_numpy(self.schedule.alpha_bar).float()
        self._seen = torch.zeros(len(self.latents), dtype=torch.bool)

    def seen(self) -> int:
        return int(self._seen.sum())

    def draw(self, count: int, dropout: float):
        """Latents (count, C, h, w) and labels (count,) of random images; some labels are the null label."""
        import torch

        index = torch.randint(len(self.latents), (count,), generator=self.g)
        self._seen[index] = True
        labels = self.labels[index]
        drop = torch.rand(count, generator=self.g) < dropout
        return self.latents.draw(index, self.g), labels.masked_fill(drop, self.task.backbone.conditioning.null)

    def noise(self, count: int):
        import torch

        return torch.randn(count, *self.task.backbone.latent_shape, generator=self.g)

    def losses(self, model, x0, labels, noise, t, part: int):
        """The loss of `part` images after the other, each by its share of the batch."""
        for k in range(0, len(t), part):
            own = [v[k : k + part] for v in (x0, labels, noise, t)]
            yield self.loss(model, *own) * (len(own[-1]) / len(t))

    def loss(self, model, x0, labels, noise, t):
        """Mean squared error () of the predicted noise at training steps t (count,)."""
        from harmonica.execution import Plain

        device, bar = model.device, self.bar[t][:, None, None, None]
        x = (bar.sqrt() * x0 + (1 - bar).sqrt() * noise).to(device)
        out = Plain(model).evaluate(model, x, (t + self.schedule.first).to(device), model.condition(labels.to(device)))
        return (out[:, : model.in_channels] - noise.to(device)).square().mean()
