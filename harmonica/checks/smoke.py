"""A paper-scale model at its true shape with random weights, through all stages of a run: sampling under a plan, one
update of router training, decoding, and the metrics."""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from harmonica.evaluation.distances import Gaussian
from harmonica.evaluation.metrics import Evidence, measure
from harmonica.evaluation.references import Reference
from harmonica.execution import Batch, Guided, run
from harmonica.execution.run import to_pixels
from harmonica.models import get_model
from harmonica.models.loading import decoder
from harmonica.models.random_weights import build_autoencoder, random_model
from harmonica.plan import REUSE, Plan, Protocol
from harmonica.samplers import make_sampler
from harmonica.training.logits import Logits
from harmonica.training.sdt import recipe_for, trajectory
from harmonica.training.soft import Soft
from harmonica.training.starts import Start
from harmonica.utils import UserError
from harmonica.utils.devices import default_device

METRIC_IMAGES = 6


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print a stage's seconds, and the peak memory so far."""
    started = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = peak_bytes()
    print(f"{name:52} {time.perf_counter() - started:7.1f} s   peak {peak / 2**30:5.1f} GiB", flush=True)


def peak_bytes() -> int:
    """The most memory that this process has had; the system says it in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def smoke(model: str, steps: int | None = None, blocks: int | None = None) -> None:
    """Run every stage once, printing time and peak memory. Raises UserError for a model of another scale.

    By default large images get two steps, and on a CPU the largest get two blocks.
    """
    about = get_model(model)
    if not about.hub:
        raise UserError(f"{model} is shipped with its weights: use `harmonica sample`")
    on_gpu, depth = default_device().type == "cuda", about.depth
    if blocks is None:
        blocks = 2 if about.resolution > 1024 and not on_gpu else depth
    if not 1 <= blocks <= depth:
        raise UserError(f"{about.title} has {depth} blocks, not {blocks}")
    steps = steps or (10 if about.resolution < 1024 else 2)
    torch.manual_seed(0)
    with stage(f"build {about.title} {about.resolution}, random weights"):
        backbone = random_model(about, blocks)
    parameters, branches = sum(p.numel() for p in backbone.parameters()), len(backbone.layout.branches)
    print(f"  {parameters / 1e6:.0f} M parameters, {branches} branches")
    if blocks < depth:
        print(f"  {blocks} of {depth} blocks, so that it takes minutes; --blocks {depth} runs all")
    if about.captions:
        print(f"  prompts are random embeddings of {about.text_tokens} tokens: the text encoder is not tested")

    actions = np.zeros((steps, branches), np.uint8)
    actions[1::2] = REUSE
    plan = Plan(actions, Protocol(model, about.sampler, steps, about.cfg))
    batch = Batch.of(backbone, 0, 0, 1)
    with stage(f"sample 1 image, {steps} steps, guided, CUR {plan.cur:.0f} %"):
        latents = run(backbone, plan, batch)

    recipe = recipe_for(about.scale, steps, about.layout)
    logits = Logits.random(2, branches, range(1, 2), recipe, torch.Generator(), backbone.device)
    before = logits.numpy().copy()
    with stage("SDT: a step that fills the cache, and one update"):
        start = Start(Guided.by(plan.protocol, backbone, batch.labels), batch.noise)
        sampler = make_sampler(about.sampler, 2, about.schedule)
        _, (loss,) = trajectory([start], sampler, logits, [Soft(backbone)], torch.ones(2), 7e-8, 0.1)
    print(f"  loss {float(loss.total):.3g}; {(logits.numpy() != before).sum()} logits moved")

    if about.resolution > 1024 and not on_gpu:
        latents = latents[:, :, :64, :64]
        print("  a corner of 512×512 is decoded: decoding all of it takes more memory than most machines have")
    with stage("decode"), torch.inference_mode():
        images = to_pixels(decoder(build_autoencoder(about).to(backbone.device))(latents)).cpu().numpy()
    with tempfile.TemporaryDirectory() as folder, stage(f"Inception features, metrics of {METRIC_IMAGES} images"):
        from harmonica.evaluation.features.inception import inception_features, save_random_weights

        path = Path(folder) / "inception.pth"
        save_random_weights(path)
        some = images.repeat(METRIC_IMAGES, 0)
        some[:, :METRIC_IMAGES, :, 0] += torch.arange(METRIC_IMAGES, dtype=torch.uint8).numpy()[:, None, None]
        f = inception_features(path)(some)
        found = measure(Evidence(f, Reference(Gaussian.of(f.pooled), Gaussian.of(f.spatial), f.pooled)))
    print("  " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()) + " (random weights: only the path is tested)")
