"""How a training is divided to fit into a GPU's memory: parts of the batch, recomputed branches, a cache on the host.
Predicted from the model's layout. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from harmonica.plan import BranchLayout
from harmonica.plan.costs import SLACK, WORK, weight_bytes
from harmonica.utils import UserError

# Of one sequence, in tensors of the size of its stream, counted on fake tensors at true shapes (tests/gpu):
# activations that a branch keeps for its gradient: input, difference to the cached output, and q, k, v and output of
# attention, or the hidden layer of an MLP
SAVED = {"attention": 6.0, "mlp": 6.0, "cross-attention": 3.0}
RECOMPUTED = 2.0  # input and difference, if the branch is computed again for its gradient
GRADIENT_WORK = 16.0  # temporaries of a forward and backward pass
MOST_TAILS = 256  # images in one plain evaluation for λ; more are no faster


@dataclass(frozen=True)
class Split:
    """How a batch is divided. Any division trains the same router; see `starts`."""

    part: int  # images whose activations are in memory at a time
    checkpointing: bool  # branches are recomputed for their gradients
    offload: bool  # the soft cache is in the host's memory
    tails: int  # images in one evaluation without gradients
    peak: float = 0.0  # predicted bytes

    @staticmethod
    def of(
        layout: BranchLayout,
        batch: int,
        memory: float | None,
        checkpointing: bool | None = None,
        itemsize: int = 4,
        guided: bool = True,
        graph_steps: int = 1,
        keeps_cache: bool = True,
    ) -> Split:
        """The fastest division whose predicted peak fits into `memory` bytes; undivided if that is None.

        `graph_steps`: evaluations whose activations one gradient needs; `keeps_cache`: whether the caches of all parts
        live at once. `checkpointing` forces a choice. Raises UserError if nothing fits.
        """
        whole = Split(batch, bool(checkpointing), False, 0)
        if memory is None:
            return whole
        job = _Job(layout, batch, itemsize, 2 if guided else 1, graph_steps, keeps_cache)
        parts = sorted({-(-batch // k) for k in range(1, batch + 1)}, reverse=True)
        for offload in (False, True):
            for recompute in (False, True) if checkpointing is None else (checkpointing,):
                for part in parts:
                    split = Split(part, recompute, offload, job.tails(part, offload, memory))
                    peak = job.peak(split)
                    if peak <= memory:
                        return replace(split, peak=peak)
        least = job.peak(Split(1, checkpointing is not False, True, 1))
        raise UserError(
            f"training {layout.name} with {batch} images per round needs {least / 2**30:.1f} GiB, more than the "
            f"{memory / 2**30:.1f} GiB of gpu_memory"
        )

    def record(self) -> dict:
        """For the notes of a router."""
        return {k: v for k, v in asdict(self).items() if k != "peak"}


@dataclass(frozen=True)
class _Job:
    layout: BranchLayout
    batch: int
    itemsize: int
    halves: int
    graph_steps: int
    keeps_cache: bool

    def _sequences(self, images: int) -> float:
        """Bytes of a stream for this many images."""
        return self.halves * images * self.layout.stream_elements * self.itemsize

    def _fixed(self, split: Split) -> float:
        """Weights (twice if λ needs them in float32), conditions, and the caches of all parts."""
        copies = weight_bytes(self.layout, self.itemsize) + (self.itemsize < 4) * weight_bytes(self.layout, 4)
        conditions = self.halves * self.batch * self.layout.condition_elements * self.itemsize
        caches = self.keeps_cache and not split.offload
        return copies + conditions + caches * self._sequences(self.batch) * len(self.layout.branches)

    def tails(self, part: int, offload: bool, memory: float) -> int:
        """Images in one plain evaluation for λ: as many as fit, but at least a part."""
        one = (self._sequences(1) / self.itemsize * WORK + self.halves * self.layout.condition_elements) * 4
        left = memory / SLACK - self._fixed(Split(part, False, offload, 0)) - self._own_cache(part)
        return int(max(part, min(MOST_TAILS, left // one)))

    def peak(self, split: Split) -> float:
        """Predicted peak bytes, with the allocator's slack."""
        kinds = self.layout.kinds
        saved = RECOMPUTED * len(kinds) if split.checkpointing else sum(SAVED[k] for k in kinds)
        saved -= split.offload * len(kinds)  # the differences
        kept = self.graph_steps * saved + GRADIENT_WORK + len(self.layout.skips)
        training = self._sequences(split.part) * kept + self.graph_steps * self._own_cache(split.part)
        plain = self.halves * split.tails * (self.layout.stream_elements * WORK + self.layout.condition_elements) * 4
        return SLACK * (self._fixed(split) + max(training, plain + self._own_cache(split.part)))

    def _own_cache(self, part: int) -> float:
        """Bytes of a part's cache, if not all live at once."""
        return 0.0 if self.keeps_cache else self._sequences(part) * len(self.layout.branches)
