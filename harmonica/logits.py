"""Router logits while they are learned: one parameter a step, one optimiser, the loss that all learned methods share."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harmonica.router import LIMIT


class Loss(NamedTuple):
    data: Tensor  # mean((teacher − student)²)
    ratios: Tensor  # Σ r
    total: Tensor  # λ · data + β · Σ r


class Logits:
    """Logits (steps, branches) in execution order; the steps in `routed` learn, the others compute everything.

    AdamW without weight decay; its state is kept row by row, since a step's loss reaches that step's logits only.
    """

    def __init__(self, initial: Tensor, routed: range, lr: float):
        self.routed = routed
        self.rows = [
            nn.Parameter(row.clone() if s in routed else torch.full_like(row, LIMIT))
            for s, row in enumerate(initial.float())
        ]
        self._optimiser = torch.optim.AdamW(self.rows, lr=lr, weight_decay=0.0)

    @staticmethod
    def drawn(steps: int, branches: int, routed: range, lr: float, generator: torch.Generator) -> "Logits":
        """N(0, 1) as released."""
        return Logits(torch.randn(steps, branches, generator=generator), routed, lr)

    def ratios(self, s: int) -> Tensor:
        return torch.sigmoid(self.rows[s])

    def learn(self, s: int, teacher: Tensor, student: Tensor, weight: float, beta: float) -> Loss:
        """One update of row `s`. `student` must come from `ratios(s)`."""
        data = (teacher - student).square().mean()
        ratios = self.ratios(s).sum()
        total = weight * data + beta * ratios
        total.backward()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.rows[s].clamp_(-LIMIT, LIMIT)
        return Loss(data.detach(), ratios.detach(), total.detach())

    def balance(self, s: int, teacher: Tensor, student: Tensor, weight: float, threshold: float) -> np.ndarray:
        """The β at which each branch of row `s` would settle at the threshold, were it alone; nothing is updated.

        Alone, a branch's loss is c·(1−r)² + β·r, so c follows from one gradient and β = 2c·(1−τ).
        """
        data = weight * (teacher - student).square().mean()
        (gradient,) = torch.autograd.grad(data, self.rows[s])
        r = self.ratios(s).detach()
        return (-gradient / (r * (1 - r)) / (1 - r) * (1 - threshold)).numpy()

    def cur(self, threshold: float) -> float:
        """Cache utilisation ratio at the threshold, percent of all steps and branches."""
        return 100.0 * float((torch.stack(self.rows).detach().sigmoid() <= threshold).float().mean())

    def numpy(self) -> np.ndarray:
        return torch.stack(self.rows).detach().numpy()
