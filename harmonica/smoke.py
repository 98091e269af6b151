"""A paper-scale model at its true shape with random weights, through everything a run needs: sampling under a plan, one
update of router training, decoding, and the metrics."""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from harmonica.devices import default_device
from harmonica.errors import UserError
from harmonica.evaluation import distances
from harmonica.executor import Planned, Soft
from harmonica.experiment import Experiment
from harmonica.extractors import Reference
from harmonica.logits import Logits
from harmonica.metrics import Gaussian
from harmonica.models import decoder, get_model
from harmonica.samplers import make_sampler
from harmonica.sampling import Guided, noise_and_labels, sample, to_pixels
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


def smoke(model: str, steps: int = 10, cfg: float = 1.5) -> None:
    """Run every stage once, printing time and peak memory. Raises UserError for a model that is not of this scale."""
    about = get_model(model)
    if not about.hub:
        raise UserError(f"{model} is shipped with its weights: try `harmonica sample`")
    torch.manual_seed(0)
    with stage(f"build {about.title} {about.resolution}, random weights"):
        backbone = about.build_backbone().to(default_device()).eval().requires_grad_(False)
    parameters = sum(p.numel() for p in backbone.parameters())
    print(f"  {parameters / 1e6:.0f} M parameters, {len(about.shape.branches)} branches")

    plan, _ = Experiment.of(model, "ddim", steps, cfg, "fora", {"interval": 2}).make()
    noise, labels = (x.to(backbone.device) for x in noise_and_labels(0, 0, 1, backbone.latent_shape, backbone.classes))
    guided = Guided(backbone, labels, cfg, about.guidance_channels)
    with stage(f"sample 1 image, {steps} steps, guided, CUR {plan.cur:.0f} %"):
        latents = sample(guided, make_sampler("ddim", steps), Planned(backbone, plan), noise)

    recipe = RECIPES[about.scale]
    logits = Logits.drawn(2, len(about.shape.branches), range(1, 2), recipe, torch.Generator(), backbone.device)
    before = logits.numpy().copy()
    with stage("SDT: a step that fills the cache, and one update"):
        _, (loss,) = trajectory(
            guided, make_sampler("ddim", 2), logits, Soft(backbone, 0.1), noise, torch.ones(2), 7e-8
        )
    print(f"  loss {float(loss.total):.3g}; {(logits.numpy() != before).sum()} logits moved")

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
