"""Tensors with device "cuda" and no data, to run jobs at their true shape on a CPU: a tensor on the wrong device, a
wrong dtype and a synchronisation with the host raise errors as they would happen; a counter adds up live storages.

Gradients need a driver even on such tensors, so trainings are counted on tensors of the CPU without data, of the same
shapes.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harmonica.backbones.base import Backbone
from harmonica.execution import Batch
from harmonica.execution.seeds import StepSeeds
from harmonica.models import get_model
from harmonica.models.random_weights import build_backbone, random_captions
from harmonica.plan import REUSE, Plan, Protocol
from harmonica.training.logits import Logits, Row

GIB = 2**30


class Peak(TorchDispatchMode):
    """Bytes of the storages of fake tensors on `device` that are alive: now, and at most so far."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.now, self.most, self._seen = device, 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, FakeTensor) and x.fake_device.type == self.device:
                self._add(x.untyped_storage())
        return out

    def _add(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@contextmanager
def fake(device: str = "cuda") -> Iterator[Peak]:
    """New tensors have no data and are on `device` unless another is given."""
    gc.disable()  # it would drop the finalisers of storages that are alive, and the count would depend on when it runs
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Peak(device) as peak, torch.device(device):
            yield peak
    finally:
        gc.enable()


def backbone(name: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A model at its true shape, built within `fake`."""
    about = get_model(name)
    torch.set_default_dtype(dtype)
    try:
        model = build_backbone(about).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    if hasattr(model, "position"):
        model.position = model.position.to(dtype)
    if about.captions:
        model.conditioning = random_captions(about.text_tokens, about.config["caption_channels"])
    return model


def batch(model: Backbone, images: int) -> Batch:
    """Noise and labels of the batch, on the model's device."""
    labels = torch.zeros(images, dtype=torch.long)
    return Batch(torch.randn(images, *model.latent_shape), labels, StepSeeds(0, 0, images))


def half_reused(name: str, sampler: str, steps: int, cfg: float = 1.5) -> Plan:
    """A plan that computes and reuses every branch in turn: its cache has every branch's output."""
    actions = np.zeros((steps, len(get_model(name).layout.branches)), np.uint8)
    actions[1::2] = REUSE
    return Plan(actions, Protocol(name, sampler, steps, cfg))


class Decided(Logits):
    """Logits without values: which branches refresh the cache is random, as the decision would read the values."""

    def __init__(self, steps: int, branches: int, device: str):
        super().__init__(torch.zeros(steps, branches, device="cpu"), range(1, steps), 0.01, device=device)
        self._rng = np.random.default_rng(0)

    def row(self, s: int, threshold: float | None) -> Row:
        refresh = None if threshold is None else (self._rng.random(len(self.rows[s])) > 0.3).tolist()
        return Row(torch.sigmoid(self.rows[s]).to(self.device), refresh)

    def numpy(self):
        return None
