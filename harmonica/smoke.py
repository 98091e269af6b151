"""A paper-scale model at its true shape with random weights, through everything a run needs: sampling under a plan, one
update of router training, decoding, and the metrics."""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from harmonica.captions import CaptionsInMemory
from harmonica.devices import default_device
from harmonica.errors import UserError
from harmonica.evaluation import distances
from harmonica.executor import Planned, Soft
from harmonica.extractors import Reference
from harmonica.logits import Logits
from harmonica.metrics import Gaussian
from harmonica.models import Model, decoder, get_model
from harmonica.plan import REUSE, Origin, Plan
from harmonica.samplers import make_sampler
from harmonica.sampling import begin, sample, to_pixels
from harmonica.sdt import RECIPES, trajectory

METRIC_IMAGES = 6


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what a stage took, and the peak memory so far."""
    started = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name:52} {time.perf_counter() - started:7.1f} s   peak {peak / 2**30:5.1f} GiB", flush=True)


def random_captions(tokens: int, channels: int) -> CaptionsInMemory:
    """A prompt of random embeddings, as long as the model takes one, and a null prompt."""
    mask = torch.ones(2, tokens, dtype=torch.long)
    mask[1, 1:] = 0
    return CaptionsInMemory(torch.randn(2, tokens, channels), mask)


def random_model(about: Model, blocks: int | None = None):
    """The backbone at its true shape with random weights, or with fewer blocks; its prompts are random, too."""
    backbone = about.build_backbone(blocks).to(default_device()).eval().requires_grad_(False)
    if about.captions:
        backbone.captions = random_captions(about.text_tokens, about.config["caption_channels"])
    return backbone


def smoke(model: str, steps: int | None = None, blocks: int | None = None) -> None:
    """Run every stage once, printing time and peak memory. Raises UserError for a model that is not of this scale.

    Where nothing is asked for, large pictures get two steps, and on a CPU the largest get two blocks.
    """
    about = get_model(model)
    if not about.hub:
        raise UserError(f"{model} is shipped with its weights: try `harmonica sample`")
    on_gpu, depth = default_device().type == "cuda", about.depth
    if blocks is None:
        blocks = 2 if about.resolution > 1024 and not on_gpu else depth
    if not 1 <= blocks <= depth:
        raise UserError(f"{about.title} has {depth} blocks, not {blocks}")
    steps = steps or (10 if about.resolution < 1024 else 2)
    torch.manual_seed(0)
    with stage(f"build {about.title} {about.resolution}, random weights"):
        backbone = random_model(about, blocks)
    parameters, branches = sum(p.numel() for p in backbone.parameters()), len(backbone.shape.branches)
    print(f"  {parameters / 1e6:.0f} M parameters, {branches} branches")
    if blocks < depth:
        print(f"  {blocks} of the {depth} blocks, so that it takes minutes: for all, --blocks {depth}")
    if about.captions:
        print(f"  prompts are random embeddings of {about.text_tokens} tokens: the text encoder is not tried")

    actions = np.zeros((steps, branches), np.uint8)
    actions[1::2] = REUSE
    plan = Plan(actions, Origin(model, about.sampler, steps, about.cfg, "every second step"))
    guided, noise, _ = begin(plan.origin, backbone, about.guided_channels(about.sampler), 0, 1)
    with stage(f"sample 1 image, {steps} steps, guided, CUR {plan.cur:.0f} %"):
        latents = sample(guided, make_sampler(about.sampler, steps), Planned(backbone, plan), noise)

    recipe = RECIPES[about.scale]
    logits = Logits.drawn(2, branches, range(1, 2), recipe, torch.Generator(), backbone.device)
    before = logits.numpy().copy()
    with stage("SDT: a step that fills the cache, and one update"):
        _, (loss,) = trajectory(
            guided, make_sampler(about.sampler, 2), logits, Soft(backbone, 0.1), noise, torch.ones(2), 7e-8
        )
    print(f"  loss {float(loss.total):.3g}; {(logits.numpy() != before).sum()} logits moved")

    if about.resolution > 1024 and not on_gpu:
        latents = latents[:, :, :64, :64]
        print("  a corner of 512×512 is decoded: all of it would take more memory than most machines have")
    with stage("decode"), torch.inference_mode():
        images = to_pixels(decoder(about.build_autoencoder().to(backbone.device))(latents)).cpu().numpy()
    with tempfile.TemporaryDirectory() as folder, stage(f"Inception features, metrics of {METRIC_IMAGES} images"):
        from harmonica.inception import inception_features, save_random_weights

        path = Path(folder) / "inception.pth"
        save_random_weights(path)
        batch = images.repeat(METRIC_IMAGES, 0)
        batch[:, :METRIC_IMAGES, :, 0] += torch.arange(METRIC_IMAGES, dtype=torch.uint8).numpy()[:, None, None]
        f = inception_features(path)(batch)
        found = distances(f, Reference(Gaussian.of(f.pooled), Gaussian.of(f.spatial), f.pooled))
    print("  " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()) + " (random weights: only the path is tried)")
