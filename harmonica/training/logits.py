"""Router logits in training: one parameter per step, one optimiser, the loss that all learned methods share."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harmonica.plan import LIMIT, sigmoid
from harmonica.training import Recipe, distributed


class Loss(NamedTuple):
    data: Tensor  # mean((teacher − student)²)
    ratios: Tensor  # Σ r
    total: Tensor  # λ · data + β · Σ r


class Logits:
    """Logits (steps, branches) in execution order; the steps in `routed` learn, the others compute everything.

    AdamW without weight decay; its state is kept row by row, since a step's loss affects only its own logits.
    """

    def __init__(
        self, initial: Tensor, routed: range, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        self.routed = routed
        self.rows = [
            nn.Parameter(row.clone() if s in routed else torch.full_like(row, LIMIT))
            for s, row in enumerate(initial.float())
        ]
        self._optimiser = torch.optim.AdamW(self.rows, lr=lr, betas=betas, eps=eps, weight_decay=0.0)
        self._before = self.numpy()

    @staticmethod
    def random(
        steps: int, branches: int, routed: range, recipe: Recipe, generator: torch.Generator, device
    ) -> "Logits":
        """Initial logits from N(0, 1), as released."""
        initial = torch.randn(steps, branches, generator=generator).to(device)
        return Logits(initial, routed, recipe.lr, recipe.betas, recipe.eps)

    def ratios(self, s: int) -> Tensor:
        return torch.sigmoid(self.rows[s])

    def learn(self, s: int, teacher: Tensor, student: Tensor, weight: float, beta: float) -> Loss:
        """One update of row `s` from outputs (n, C, H, W) of teacher and student, the latter with `ratios(s)`."""
        return self.descend([s], (teacher - student).square().mean(), weight, beta)

    def descend(self, rows: Iterable[int], data: Tensor, weight: float, beta: float) -> Loss:
        """One update of these rows, for the loss weight · data + β · Σ r."""
        rows = list(rows)
        ratios = sum(self.ratios(s).sum() for s in rows)
        assert isinstance(ratios, Tensor)
        total = weight * data + beta * ratios
        total.backward()
        for s in rows:
            gradient = self.rows[s].grad
            assert gradient is not None
            distributed.mean(gradient)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for s in rows:
                self.rows[s].clamp_(-LIMIT, LIMIT)
        return Loss(data.detach(), ratios.detach(), total.detach())

    def balance(self, s: int, teacher: Tensor, student: Tensor, weight: float, threshold: float) -> np.ndarray:
        """The β (branches,) at which each branch of row `s`, alone, would settle at the threshold; nothing is
        updated."""
        return self.balances([s], weight * (teacher - student).square().mean(), threshold)[0]

    def balances(self, rows: Iterable[int], data: Tensor, threshold: float) -> np.ndarray:
        """The same for several rows that one loss depends on: (rows, branches).

        Alone, a branch's loss is c·(1−r)² + β·r, so c follows from one gradient and β = 2c·(1−τ).
        """
        rows = list(rows)
        gradients, out = torch.autograd.grad(data, [self.rows[s] for s in rows]), []
        for s, gradient in zip(rows, gradients, strict=True):
            r, gradient = self.ratios(s).detach(), distributed.mean(gradient)
            out.append((-gradient / (r * (1 - r)) / (1 - r) * (1 - threshold)).cpu().numpy())
        return np.stack(out)

    def cur(self, threshold: float, ahead: float = 0) -> tuple[float, float]:
        """Cache utilisation ratio in percent of all steps and branches: now, and extrapolated `ahead` rounds from the
        change of every logit since the last call."""
        now = self.numpy()
        then, self._before = now + ahead * (now - self._before), now
        cur, later = (100.0 * float((sigmoid(x) <= threshold).mean()) for x in (now, then))
        return cur, later

    def state(self) -> dict:
        """For a checkpoint."""
        rows = [row.detach().cpu() for row in self.rows]
        return {"rows": rows, "optimiser": self._optimiser.state_dict(), "before": torch.from_numpy(self._before)}

    def load_state(self, state: dict) -> None:
        with torch.no_grad():
            for own, saved in zip(self.rows, state["rows"], strict=True):
                own.copy_(saved)
        self._optimiser.load_state_dict(state["optimiser"])
        self._before = state["before"].numpy()

    def numpy(self) -> np.ndarray:
        return torch.stack(list(self.rows)).detach().cpu().numpy()
