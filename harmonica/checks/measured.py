"""The speed of this machine: seconds of a model's work, each measured once on a few batches at the true shape with
random weights."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harmonica.backbones.layers import in_precision
from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.features.base import Features
from harmonica.evaluation.features.networks import get_extractor
from harmonica.evaluation.metrics import Evidence, measure
from harmonica.evaluation.references import Reference
from harmonica.execution import Guided, Plain
from harmonica.models import Model
from harmonica.models.loading import decoder, load_autoencoder
from harmonica.models.random_weights import build_autoencoder, random_model
from harmonica.plan import Protocol
from harmonica.samplers import make_sampler
from harmonica.training import Recipe, sdt
from harmonica.training.logits import Logits
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils.devices import default_device
from harmonica.utils.precision import dtype_of, products
from harmonica.utils.provenance import usable_cores

REPEATS = 3
LONG_S = 2.0
CPU_MACS = 5e11  # of a batch that is timed on a CPU, where larger ones are no faster per image
GPU_MACS = 2e13  # the same on a GPU
SAMPLE_OF_FEATURES = 2000  # metrics are timed on this many, then scaled


class Machine:
    """Seconds and bytes that one model's work takes here, each measured once."""

    def __init__(self, model: Model):
        self.model = model
        self.backbone = random_model(model)

    def tried(self, batch: int, cfg: float = 1.0) -> int:
        """How many images of a batch are timed: up to CPU_MACS or GPU_MACS."""
        one = self.model.layout.macs * (1 if cfg == 1.0 else 2)
        return max(1, min(batch, int((GPU_MACS if default_device().type == "cuda" else CPU_MACS) / one)))

    def timed(self, once: Callable[[], Any]) -> float:
        """Median seconds of one call after a warm-up; a call above LONG_S is not repeated."""
        times: list[float] = []
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            once()
            if default_device().type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            if times[0] > LONG_S:
                break
        return statistics.median(times[1:] or times)

    def _begin(self, batch: int, cfg: float) -> tuple[Guided, torch.Tensor]:
        device = self.backbone.device
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        protocol = Protocol(self.model.name, self.model.sampler, 1, cfg)
        noise = torch.randn(batch, *self.backbone.latent_shape, device=device)
        return Guided.by(protocol, self.backbone, labels), noise

    @cache  # noqa: B019  (a machine lives as long as the process)
    def evaluation(self, batch: int, cfg: float, precision: str = "float32", threads: int = 0) -> float:
        """Seconds per image of one plain evaluation, with guidance, on `threads` threads (0: as set, negative: all)."""
        tried, before = self.tried(batch, cfg), torch.get_num_threads()
        self._in(precision)
        guided, noise = self._begin(tried, cfg)
        torch.set_num_threads(usable_cores() if threads < 0 else threads or before)
        with torch.inference_mode(), products(precision):
            seconds = self.timed(lambda: guided(noise, 500, Plain(self.backbone))) / tried
        torch.set_num_threads(before)
        return seconds

    def _in(self, precision: str) -> None:
        if self.backbone.dtype != dtype_of(precision):
            self.backbone = in_precision(random_model(self.model), dtype_of(precision))

    @cache  # noqa: B019
    def update(self, batch: int, cfg: float, precision: str = "float32") -> float:
        """Seconds per image of one update: teacher, student, and gradient of a row of logits."""
        tried = self.tried(batch, cfg)
        self._in(precision)
        guided, noise = self._begin(tried, cfg)
        sampler, branches = make_sampler("ddim", 2), len(self.backbone.layout.branches)
        logits = Logits.random(2, branches, range(1, 2), Recipe(1, tried, 0.01), torch.Generator(), noise.device)
        start = Start(guided, noise)
        with products(precision):
            both = self.timed(
                lambda: sdt.trajectory([start], sampler, logits, [Soft(self.backbone)], [1.0, 1.0], 1e-7, 0.1)
            )
        return max(0.0, both / tried - self.evaluation(batch, cfg, precision))

    @cache  # noqa: B019
    def decoding(self, batch: int) -> float:
        """Seconds per image."""
        vae = build_autoencoder(self.model) if self.model.hub else load_autoencoder(self.model)
        tried = self.tried(batch)
        decode, latents = decoder(vae.to(self.backbone.device)), self._begin(tried, 1.0)[1]
        with torch.inference_mode():
            return self.timed(lambda: decode(latents)) / tried

    def encoding(self) -> float:
        """Seconds per image; about half of decoding, which has more layers."""
        return self.decoding(1) / 2

    @cache  # noqa: B019
    def features(self, batch: int = 100) -> float:
        """Seconds per image, feature network."""
        images, extract = self._images(batch), self._extractor()
        return self.timed(lambda: extract(images)) / batch

    def _images(self, count: int) -> np.ndarray:
        side = self.model.resolution
        shape = (count, side, side) if self.model.extractor == "fashion-mnist-cnn" else (count, side, side, 3)
        return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)

    def _extractor(self) -> Callable:
        return _random_inception() if self.model.hub else get_extractor(self.model.extractor)

    @cache  # noqa: B019
    def distances(self, images: int) -> float:
        """Seconds of the metrics of this many images, scaled from fewer random features."""
        some, real = min(images, SAMPLE_OF_FEATURES), 10_000
        f = self._extractor()(self._images(2))
        rng = np.random.default_rng(0)
        generated, others = (
            Features(*(rng.standard_normal((n, x.shape[1]), dtype=np.float32) for x in (f.pooled, f.spatial, f.logits)))
            for n in (some, real if not self.model.hub else some)
        )
        r = Reference(Gaussian.of(others.pooled), Gaussian.of(others.spatial), others.pooled)
        grows = images / some * real / len(others.pooled)
        return self.timed(lambda: measure(Evidence(generated, r))) * grows


def _random_inception() -> Callable:
    from harmonica.evaluation.features.inception import inception_features, save_random_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        save_random_weights(path)
        return inception_features(path)
