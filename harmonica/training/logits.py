"""Router logits in training: one parameter per step, one optimiser, the loss that all learned methods share."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harmonica.plan import LIMIT, sigmoid
from harmonica.training import Recipe, distributed


class Part(NamedTuple):
    """A part of a batch: its share of the images, its mean squared error (), and how many numbers that averages."""

    share: float
    error: Tensor
    numbers: int

    @staticmethod
    def of(share: float, teacher: Tensor, student: Tensor) -> "Part":
        return Part(share, (teacher - student).square().mean(), student.numel())

    def scale(self, weight: float) -> float:
        """A power of two that makes gradients of weight · share · error as large as the errors: far above what float16
        rounds to 0. Dividing by it is exact."""
        factor = weight * self.share / self.numbers
        return 2.0 ** -math.floor(math.log2(factor)) if factor > 0 else 1.0


class Loss(NamedTuple):
    data: Tensor  # mean((teacher − student)²)
    ratios: Tensor  # Σ r
    total: Tensor  # λ · data + β · Σ r


class Row(NamedTuple):
    """The ratios of one step, and which branches refresh the cache; the decision is made on the host."""

    ratios: Tensor  # (branches,) on the device of the model
    refresh: list[bool] | None = None  # None: the cache is only read


class Logits:
    """Logits (steps, branches) in execution order; the steps in `routed` learn, the others compute everything.

    They are parameters on the host: what a step reuses is decided there, and a GPU never waits for the decision.
    AdamW without weight decay; its state is kept row by row, since a step's loss affects only its own logits.
    """

    def __init__(
        self,
        initial: Tensor,
        routed: range,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        device: torch.device | str = "cpu",
    ):
        self.routed, self.device = routed, device
        self.rows = [
            nn.Parameter(row.clone() if s in routed else torch.full_like(row, LIMIT))
            for s, row in enumerate(initial.float().cpu())
        ]
        self._optimiser = torch.optim.AdamW(self.rows, lr=lr, betas=betas, eps=eps, weight_decay=0.0)
        self._before = self.numpy()

    @staticmethod
    def random(
        steps: int, branches: int, routed: range, recipe: Recipe, generator: torch.Generator, device
    ) -> "Logits":
        """Initial logits from N(0, 1), as released."""
        initial = torch.randn(steps, branches, generator=generator)
        return Logits(initial, routed, recipe.lr, recipe.betas, recipe.eps, device)

    def row(self, s: int, threshold: float | None) -> Row:
        """Step `s` for a student; its ratios carry gradients. With `threshold` None the cache is only read."""
        refresh = None if threshold is None else (self.rows[s].detach().sigmoid() > threshold).tolist()
        return Row(torch.sigmoid(self.rows[s]).to(self.device), refresh)

    def descend(self, rows: Iterable[int], parts: Iterable[Part], weight: float, beta: float) -> Loss:
        """One update of these rows, for the loss weight · data + β · Σ r.

        The data loss is Σ share · loss over the parts of a batch. The gradient of a part is added up before the next
        part is computed, so one part's activations are in memory at a time.
        """
        rows, data = list(rows), torch.zeros(())
        own = [self.rows[s] for s in rows]
        gradients = [torch.zeros_like(row) for row in own]
        for part in parts:
            self._add_gradients(gradients, own, part, weight)
            data = data + (part.share * part.error.detach()).cpu()
        ratios = sum(torch.sigmoid(row).sum() for row in own)
        assert isinstance(ratios, Tensor)
        (beta * ratios).backward()
        for row, gradient in zip(own, gradients, strict=True):
            assert row.grad is not None
            row.grad += gradient
            distributed.mean(row.grad)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for s in rows:
                self.rows[s].clamp_(-LIMIT, LIMIT)
        return Loss(data, ratios.detach(), weight * data + beta * ratios.detach())

    def balances(self, rows: Iterable[int], parts: Iterable[Part], weight: float, threshold: float) -> np.ndarray:
        """The β at which each branch of these rows, alone, would settle at the threshold, (rows, branches), from the
        parts of a batch as `descend` takes them; nothing is updated.

        Alone, a branch's loss is c·(1−r)² + β·r, so c follows from one gradient and β = 2c·(1−τ).
        """
        out, own = [], [self.rows[s] for s in rows]
        gradients = [torch.zeros_like(row) for row in own]
        for part in parts:
            self._add_gradients(gradients, own, part, weight)
        for row, gradient in zip(own, gradients, strict=True):
            r, gradient = torch.sigmoid(row.detach()), distributed.mean(gradient)
            out.append((-gradient / (r * (1 - r)) / (1 - r) * (1 - threshold)).numpy())
        return np.stack(out)

    @staticmethod
    def _add_gradients(gradients: list[Tensor], rows: list[nn.Parameter], part: Part, weight: float) -> None:
        """Add a part's gradients of weight · share · error."""
        scale = part.scale(weight)
        scaled = torch.autograd.grad(scale * weight * part.share * part.error, rows)
        for total, gradient in zip(gradients, scaled, strict=True):
            total += gradient / scale

    def cur(self, threshold: float, ahead: float = 0) -> tuple[float, float]:
        """Cache utilisation ratio in percent of all steps and branches: now, and extrapolated `ahead` rounds from the
        change of every logit since the last call."""
        now = self.numpy()
        then, self._before = now + ahead * (now - self._before), now
        cur, later = (100.0 * float((sigmoid(x) <= threshold).mean()) for x in (now, then))
        return cur, later

    def state(self) -> dict:
        """For a checkpoint."""
        rows = [row.detach() for row in self.rows]
        return {"rows": rows, "optimiser": self._optimiser.state_dict(), "before": torch.from_numpy(self._before)}

    def load_state(self, state: dict) -> None:
        with torch.no_grad():
            for own, saved in zip(self.rows, state["rows"], strict=True):
                own.copy_(saved)
        self._optimiser.load_state_dict(state["optimiser"])
        self._before = state["before"].numpy()

    def numpy(self) -> np.ndarray:
        return torch.stack(list(self.rows)).detach().numpy()
